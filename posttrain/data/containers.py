"""Files of rows, whatever they are packed in: every container becomes a stream of records with their place.

    JSON lines      also under .json and .txt
    JSON            a list of rows; a mapping of columns, of rows by id, or around one list of rows; one row
    CSV, TSV        byte-order mark, cells of several lines, `;` between cells, with a header or without
    Parquet, Arrow  files and streams
    text            whole documents

All of them also packed with gzip or zstd. What a file's bytes say counts more than its name. A row that cannot be read
becomes a `BadRow` and reading goes on, so that all of them can be reported at once; a file that cannot be read raises
DataError. Rows are read one after another: only a JSON document that is no list is ever in memory as a whole.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NoReturn

from posttrain.schema.errors import DataError

from .documents import documents
from .files import SUFFIXES, suffix_of
from .json_rows import json_document, json_line, json_list
from .record import Records
from .tables import arrow, parquet, table

ARROW_MARKS = (b"ARROW1", b"\xff\xff\xff\xff")  # a file, a stream
GZIP_MARK, ZSTD_MARK = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Said:
    """What the user says about a file: which `part` of a JSON document holds the rows, and whether the first line of a
    table is a `header` (None: see for yourself)."""

    part: str = ""
    header: bool | None = None


def records(path: Path, said: Said = Said()) -> Records:
    """The rows of one file, lazily and in order. Raises DataError when the file as a whole cannot be read."""
    try:
        with path.open("rb") as file:
            data = _unpacked(path, file)
            yield from _container(path, data, said)(path, data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip data is damaged ({error}). Get the file again.") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}). Check the path and its permissions."
        ) from error


class _Zstd(io.RawIOBase):
    """The content of a file packed with zstd, which can be read again from its start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        from pyarrow import CompressedInputStream

        if offset or whence:
            raise io.UnsupportedOperation("a packed file is read from its start")
        self.stream = CompressedInputStream(self.path.open("rb"), "zstd")  # closes its file when it goes
        return 0

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        from pyarrow.lib import ArrowException

        try:
            read = self.stream.read(len(buffer))
        except (OSError, ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{self.path}: the zstd data is damaged ({reason}). Get the file again.") from error
        buffer[: len(read)] = read
        return len(read)


def _unpacked(path: Path, file: io.BufferedReader) -> io.BufferedReader:
    """The content: not packed, and UTF-8 where it was UTF-16."""
    start = file.peek(4)
    if start.startswith(GZIP_MARK):
        file = io.BufferedReader(gzip.GzipFile(fileobj=file))
    elif start.startswith(ZSTD_MARK):
        file = io.BufferedReader(_Zstd(path))
    start = file.peek(4)
    if start.startswith(UTF16_MARKS) and not start.startswith(ARROW_MARKS):
        file = io.BufferedReader(io.BytesIO(file.read().decode("utf-16", "replace").encode()))
    return _after_mark(file)


def _after_mark(data: io.BufferedReader) -> io.BufferedReader:
    if data.peek(3).startswith(UTF8_MARK):
        data.read(len(UTF8_MARK))
    return data


def _container(path: Path, data: io.BufferedReader, said: Said) -> Callable[[Path, io.BufferedReader], Records]:
    start, suffix = data.peek(64), suffix_of(path)
    if not start:
        raise DataError(f"{path} is empty. Put rows into it, or name another file.")
    if start.startswith(b"PAR1"):
        found = parquet
    elif start.startswith(ARROW_MARKS):
        found = arrow
    elif suffix in (".parquet", ".arrow"):
        raise DataError(f"{path} holds no {suffix[1:]} data. Write it again, or give it the suffix of what it holds.")
    elif suffix in (".csv", ".tsv"):
        found = partial(table, header=said.header)
    elif suffix in SUFFIXES or not suffix:
        return partial(_text, part=said.part)
    else:
        packed = "or .gz or .zst of these"
        raise DataError(f"{path}: a {suffix} file holds no rows. Use one of {', '.join(SUFFIXES)}, {packed}.")
    return found if not said.part else _no_part(path, said.part)


def _no_part(path: Path, part: str) -> NoReturn:
    raise DataError(
        f"{path} has no part {part!r}: only a JSON document of several named lists has parts. Leave '#{part}' out."
    )


def _text(path: Path, data: io.BufferedReader, part: str) -> Records:
    """JSON lines, JSON or documents, told by the first bytes or the first lines."""
    suffix = suffix_of(path)
    if suffix != ".txt" and not part and data.peek(64).lstrip().startswith(b"["):
        return json_list(path, data)
    lines = ((n, line) for n, line in enumerate(data, start=1) if line.strip())
    head = list(islice(lines, 2))
    if not head:
        raise DataError(f"{path} holds nothing but blanks. Put rows into it, or name another file.")
    first = head[0][1].strip()
    if _is_object(first):
        as_lines = suffix != ".json" or len(head) > 1
    else:
        as_lines = suffix in (".jsonl", ".ndjson") and first != b"{"
    if as_lines and not part:
        return (json_line(f"{path}:{n}", line) for n, line in chain(head, lines))
    if suffix == ".json" or part or (first == b"{" and suffix != ".txt"):
        return json_document(path, _rewound(data).read(), part)
    return documents(path, data, lambda: _rewound(data))


def _rewound(data: io.BufferedReader) -> io.BufferedReader:
    data.seek(0)
    return _after_mark(data)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
