"""Files of rows, whatever they are packed in: every container becomes a stream of records with their place.

    JSON lines      also under .json and .txt
    JSON            a list of rows; a mapping of columns, of rows by id, or around one list of rows; one row
    CSV, TSV        byte-order mark, cells of several lines, `;` between cells
    Parquet, Arrow  files and streams
    text            whole documents

All of them also gzipped. What a file's bytes say counts more than its name. A row that cannot be read becomes a
`BadRow` and reading goes on, so that all of them can be reported at once; a file that cannot be read raises DataError.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from posttrain.schema.errors import DataError

from .files import SUFFIXES, suffix_of

DOCUMENT_END = "<|endoftext|>"
CELL_LIMIT = 2**31 - 1
"""The longest CSV cell; the csv module's own limit of 128 KB is shorter than many documents."""
ARROW_MARKS = (b"ARROW1", b"\xff\xff\xff\xff")  # a file, a stream
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stands in its file. `place` is `file:line`, or `file, row n` where rows have no line."""

    place: str
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read, and why."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


Records = Iterator[Record | BadRow]
Lines = Iterable[tuple[int, bytes]]


def records(path: Path) -> Records:
    """The rows of one file, lazily and in order. Raises DataError when the file as a whole cannot be read."""
    try:
        with path.open("rb") as file:
            data = _unpacked(file)
            yield from _container(path, data)(path, data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip data is damaged ({error}). Get the file again.") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}). Check the path and its permissions."
        ) from error


def _unpacked(file: io.BufferedReader) -> io.BufferedReader:
    """The content: not gzipped, and UTF-8 where it was UTF-16."""
    if file.peek(2).startswith(b"\x1f\x8b"):
        file = io.BufferedReader(gzip.GzipFile(fileobj=file))
    start = file.peek(4)
    if start.startswith(UTF16_MARKS) and not start.startswith(ARROW_MARKS):
        file = io.BufferedReader(io.BytesIO(file.read().decode("utf-16", "replace").encode()))
    if file.peek(3).startswith(UTF8_MARK):
        file.read(len(UTF8_MARK))
    return file


def _container(path: Path, data: io.BufferedReader) -> Callable[[Path, io.BufferedReader], Records]:
    start, suffix = data.peek(64), suffix_of(path)
    if not start:
        raise DataError(f"{path} is empty. Put rows into it, or name another file.")
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        raise DataError(f"{path} is compressed with zstd, which is not read. Unpack it first: `zstd -d {path}`.")
    if start.startswith(b"PAR1"):
        return _parquet
    if start.startswith(ARROW_MARKS):
        return _arrow
    if suffix in (".parquet", ".arrow"):
        raise DataError(f"{path} holds no {suffix[1:]} data. Write it again, or give it the suffix of what it holds.")
    if suffix in (".csv", ".tsv"):
        return _table
    if suffix in SUFFIXES or not suffix:
        return _text
    raise DataError(f"{path}: a {suffix} file holds no rows. Use one of {', '.join(SUFFIXES)}, or .gz of these.")


def _text(path: Path, data: io.BufferedReader) -> Records:
    """JSON lines, JSON or documents, told by the first lines."""
    lines = ((n, line) for n, line in enumerate(data, start=1) if line.strip())
    head = list(islice(lines, 2))
    if not head:
        raise DataError(f"{path} holds nothing but blanks. Put rows into it, or name another file.")
    first, suffix = head[0][1].strip(), suffix_of(path)
    document = first.startswith(b"[") or first == b"{"
    if _is_object(first):
        as_lines = suffix != ".json" or len(head) > 1
    else:
        as_lines = suffix in (".jsonl", ".ndjson") and not document
    if as_lines:
        return (_json_line(f"{path}:{n}", line) for n, line in chain(head, lines))
    data.seek(0)
    text = data.read().removeprefix(UTF8_MARK)
    return _json(path, text) if suffix == ".json" or (document and suffix != ".txt") else _documents(path, text)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_line(place: str, line: bytes) -> Record | BadRow:
    try:
        return _record(place, json.loads(line.rstrip(b"\r\n").decode("utf-8")))
    except UnicodeDecodeError as error:
        return BadRow(place, f"byte {error.start + 1} is not UTF-8")
    except json.JSONDecodeError as error:
        return BadRow(place, f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return BadRow(place, f"JSON that cannot be read: {error}")


def _record(place: str, row: Any) -> Record | BadRow:
    if isinstance(row, str):
        return Record(place, {"text": row})
    if isinstance(row, dict):
        return Record(place, row)
    return BadRow(place, f"a row must be an object with columns, this is {kind(row)}")


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = {list: "a list", dict: "an object", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value)) or (
        "a number" if isinstance(value, int | float) else f"of type {type(value).__name__}"
    )


def shown(value: Any) -> str:
    """A value as an error shows it: short, on one line, inert in a terminal."""
    return repr(value[:40]) if isinstance(value, str) else kind(value)


def _json(path: Path, text: bytes) -> Records:
    try:
        document = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: a byte is not UTF-8. Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}. Mend that line."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: JSON that cannot be read: {error}. Write one row a line instead.") from error
    return (_record(f"{path}, row {n}", row) for n, row in enumerate(_rows_of(path, document), start=1))


def _rows_of(path: Path, document: Any) -> list[Any]:
    """The rows of a JSON document, in any of the ways they are written."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise DataError(f"{path} holds {kind(document)} and no rows. Write a list of objects, or one object a line.")
    if document and all(isinstance(row, dict) for row in document.values()):
        return [{"id": name, **row} for name, row in document.items()]
    lists = {name: value for name, value in document.items() if isinstance(value, list)}
    of_rows = [name for name, value in lists.items() if value and isinstance(value[0], dict)]
    if len(lists) == len(of_rows) == 1:
        return lists[of_rows[0]]
    if lists and len(lists) == len(document) and not of_rows:
        return _transposed(path, lists)
    return [document]


def _transposed(path: Path, columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{name!r} {len(column)}" for name, column in columns.items())
        raise DataError(f"{path} holds columns of different lengths: {lengths}. Make them equally long.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _documents(path: Path, content: bytes) -> Records:
    """Plain text. Documents end at an end-of-text mark where there is one; otherwise a file with blank lines is one
    document, and a file without has one in each line."""
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: a byte is not UTF-8. Save the file as UTF-8.") from error
    if DOCUMENT_END in text:
        documents = text.split(DOCUMENT_END)
    else:
        lines = text.split("\n")
        documents = lines if all(line.strip() for line in lines) else [text]
    whole = [document.strip() for document in documents if document.strip()]
    return (Record(f"{path}, document {n}", {"text": document}) for n, document in enumerate(whole, start=1))


def _table(path: Path, data: io.BufferedReader) -> Records:
    """CSV and TSV. Bytes that are no UTF-8 are kept as lone surrogates, which every reader of text refuses."""
    csv.field_size_limit(CELL_LIMIT)
    lines = io.TextIOWrapper(data, "utf-8", errors="surrogateescape", newline="")
    first = lines.readline()
    delimiter = "\t" if suffix_of(path) == ".tsv" else max(",;\t", key=first.count)
    rows = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        place = f"{path}:{rows.line_num + 1}"
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(place, f"not a row of CSV: {error}")
            continue
        if header and cells:
            yield _table_row(place, header, cells)
        header = header or cells


def _table_row(place: str, header: list[str], cells: list[str]) -> Record | BadRow:
    if len(cells) != len(header):
        return BadRow(place, f"the row has {len(cells)} cells, the header {len(header)}")
    return Record(place, dict(zip(header, cells, strict=True)))


def _parquet(path: Path, data: io.BufferedReader) -> Records:
    from pyarrow.parquet import ParquetFile

    return _arrow_rows(path, lambda: ParquetFile(data).iter_batches())


def _arrow(path: Path, data: io.BufferedReader) -> Records:
    from pyarrow import ipc

    def batches() -> Iterable[Any]:
        if not data.peek(6).startswith(b"ARROW1"):
            return ipc.open_stream(data)
        file = ipc.open_file(data)
        return map(file.get_batch, range(file.num_record_batches))

    return _arrow_rows(path, batches)


def _arrow_rows(path: Path, batches: Callable[[], Iterable[Any]]) -> Records:
    """Rows of Arrow batches; a column that is null in a row is left out, as if it had never been written."""
    from pyarrow.lib import ArrowException

    n = 0
    try:
        for batch in batches():
            batch.validate(full=True)  # damaged offsets would crash the process
            for row in batch.to_pylist():
                n += 1
                yield Record(f"{path}, row {n}", {name: value for name, value in row.items() if value is not None})
    except (
        ArrowException,
        MemoryError,
        OSError,
        OverflowError,
        ValueError,
    ) as error:  # a damaged length asks for any size
        reason = str(error).partition("\n")[0] or "out of memory"
        raise DataError(f"{path} is damaged after row {n} ({reason}). Write it or get it again.") from error
