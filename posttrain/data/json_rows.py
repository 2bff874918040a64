"""JSON as rows: one a line, the elements of a list one after another, or a document that wraps them somehow.

[{…}, …]                                a list of rows, read in pieces
{"a": […], "b": […]}                    columns
{"version": 1, "data": [{…}, …]}        a wrapper, also inside another
{"train": [{…}], "test": [{…}]}         parts, of which one is named: `file.json#train`
{"q1": {…}, "q2": {…}}                  rows by id
{"q1": "…", …}                          texts by id, more of them than a row has columns
{"fear": {"of dogs": ["…", …]}, …}      texts by category
{…}                                     one row
"""

import codecs
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.schema.errors import DataError, nearest

from .columns import NAMES, plainly
from .record import BadRow, Record, Records, kind, record

BLOCK = 2**20
"""How many bytes of a list are read at once."""
N_COLUMNS = 8
"""More texts than this in one object are no columns of a row."""
CUT = 20
"""So near to the end of what was read, an error may only mean that the rest is missing."""
BLANKS = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder()


def json_line(place: str, line: bytes) -> Record | BadRow:
    """The row in one line."""
    try:
        return record(place, json.loads(line.rstrip(b"\r\n").decode("utf-8")))
    except UnicodeDecodeError as error:
        return BadRow(place, f"byte {error.start + 1} is not UTF-8")
    except json.JSONDecodeError as error:
        return BadRow(place, f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return BadRow(place, f"JSON that cannot be read: {error}")


def json_list(path: Path, data: io.BufferedReader) -> Records:
    """The elements of a list, with only a part of the file in memory. Raises DataError where the JSON breaks off."""
    text = _Window(path, data)
    text.expect("[")
    n = 0
    while not (n == 0 and text.next_is("]")):
        n += 1
        yield record(f"{path}, row {n}", text.value())
        if not text.next_is(","):
            break
        text.expect(",")
    text.expect("]")
    text.expect("")


class _Window:
    """The part of a text that is being read. Grows when a value does not end inside it."""

    def __init__(self, path: Path, data: io.BufferedReader) -> None:
        self.path, self.data = path, data
        self.text, self.at, self.ended = "", 0, False
        self.line, self.column = 1, 0  # where the text begins in the file
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def next_is(self, mark: str) -> bool:
        """Whether `mark` comes next, behind blanks; an empty mark is the end of the text."""
        while True:
            self.at = BLANKS.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return bool(mark) and self.text.startswith(mark, self.at)
            if self.ended:
                return not mark
            self._grow()

    def expect(self, mark: str) -> None:
        if not self.next_is(mark):
            wanted = f"Expecting {mark!r}" if mark else "Extra data"
            raise self._problem(json.JSONDecodeError(wanted, self.text, self.at))
        self.at += len(mark)

    def value(self) -> Any:
        """The JSON value that comes next."""
        self.next_is("")
        while True:
            try:
                found, end = DECODER.raw_decode(self.text, self.at)
                if end < len(self.text) or self.ended:
                    self.at = end
                    return found
            except json.JSONDecodeError as error:
                if self.ended or not (error.pos > len(self.text) - CUT or "Unterminated" in error.msg):
                    raise self._problem(error) from error
            except (ValueError, RecursionError) as error:
                raise _unreadable(self.path, error) from error
            self._grow()

    def _grow(self) -> None:
        last = self.text.rfind("\n", 0, self.at)
        self.column = self.at - last - 1 if last >= 0 else self.column + self.at
        self.line += self.text.count("\n", 0, self.at)
        self.text, self.at = self.text[self.at :], 0
        block = self.data.read(max(BLOCK, len(self.text)))
        self.ended = not block
        try:
            self.text += self._decoder.decode(block, final=self.ended)
        except UnicodeDecodeError as error:
            line = self.line + self.text.count("\n") + error.object.count(b"\n", 0, error.start)
            raise DataError(f"{self.path}:{line}: a byte is not UTF-8. Save the file as UTF-8.") from error

    def _problem(self, error: json.JSONDecodeError) -> DataError:
        column = error.colno + (self.column if error.lineno == 1 else 0)
        return _not_json(self.path, error.msg, self.line - 1 + error.lineno, column)


def json_document(path: Path, content: bytes, part: str) -> Records:
    """The rows of a whole document, or of its `part`."""
    try:
        document = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: a byte is not UTF-8. Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise _not_json(path, error.msg, error.lineno, error.colno) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if part:
        document = _part(path, document, part)
    return (record(f"{path}, row {n}", row) for n, row in enumerate(_rows_of(path, document), start=1))


def _not_json(path: Path, why: str, line: int, column: int) -> DataError:
    return DataError(f"{path}:{line}: not JSON: {why} at column {column}. Mend that line.")


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: JSON that cannot be read: {error}. Write one row a line instead.")


def _part(path: Path, document: Any, part: str) -> Any:
    names = list(document) if isinstance(document, dict) else []
    if part not in names:
        raise DataError(f"{path} has no part {part!r}. {nearest(part, map(plainly, names))}")
    return document[part]


def _rows_of(path: Path, document: Any) -> list[Any]:
    """The rows of a JSON document, in any of the ways they are written."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise DataError(f"{path} holds {kind(document)} and no rows. Write a list of objects, or one object a line.")
    lists = {name: value for name, value in document.items() if isinstance(value, list)}
    of_rows = [name for name, value in lists.items() if value and isinstance(value[0], dict)]
    if lists and len(lists) == len(document) and not of_rows:
        return _transposed(path, lists)
    if len(lists) == len(of_rows) == 1 and not _is_column(of_rows[0]):
        return lists[of_rows[0]]
    if any(map(_is_column, document)):
        return [document]
    if len(of_rows) == len(document) > 1:
        parts = ", ".join(map(plainly, of_rows[:9]))
        raise DataError(
            f"{path} holds several lists of rows: {parts}. Name one of them: '{path}#{plainly(of_rows[0])}'."
        )
    return _by_name(path, document)


def _is_column(name: str) -> bool:
    return name.strip().casefold() in NAMES


def _by_name(path: Path, document: dict[str, Any]) -> list[Any]:
    """Rows or texts that are filed under names, or one row."""
    values = list(document.values())
    if texts := list(_texts(document, "")):
        return [{"text": text, "category": category} for category, text in texts]
    if len(values) == 1 and isinstance(values[0], dict) and any(isinstance(v, list | dict) for v in values[0].values()):
        return _rows_of(path, values[0])
    if values and all(isinstance(row, dict) for row in values):
        return [{"id": name, **row} for name, row in document.items()]
    if len(values) > N_COLUMNS and all(isinstance(text, str) for text in values):
        return [{"id": name, "text": text} for name, text in document.items()]
    return [document]


def _texts(document: Mapping[str, Any], above: str) -> Iterator[tuple[str, str]]:
    """(category, text) of objects in objects that end in lists of texts; nothing where anything else is among them."""
    found: list[tuple[str, str]] = []
    names = [name for inner in document.values() if isinstance(inner, dict) for name in inner]
    if not document or not names or len(set(names)) < len(names) or any(map(_is_column, names)):
        return
    for name, inner in document.items():
        for below, texts in inner.items() if isinstance(inner, dict) else ():
            if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
                return
            found += [(f"{name}/{below}", text) for text in texts]
        if not isinstance(inner, dict):
            return
    yield from found


def _transposed(path: Path, columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{name!r} {len(column)}" for name, column in columns.items())
        raise DataError(f"{path} holds columns of different lengths: {lengths}. Make them equally long.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
