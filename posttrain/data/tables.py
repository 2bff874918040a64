"""Tables: CSV and TSV as text, Parquet and Arrow in batches of columns."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from posttrain.schema.errors import DataError

from .columns import NAMES
from .files import suffix_of
from .record import BadRow, Record, Records, without_nulls

CELL_LIMIT = 2**31 - 1
"""The longest CSV cell; the csv module's own limit of 128 KB is shorter than many documents."""
N_LOOKED_AT = 20
"""How many rows tell whether the first one is a header."""
LONGEST_NAME, MOST_WORDS = 40, 5
"""A cell that is longer is no name of a column."""
NUMBER = re.compile(r"\s*[-+]?[\d.,]+%?\s*")

Cells = tuple[str, list[str]]
"""(place, cells) of one row of a table."""


def table(path: Path, data: io.BufferedReader, header: bool | None = None) -> Records:
    """CSV and TSV; without a header the columns are called `1`, `2`, … Bytes that are no UTF-8 are kept as lone
    surrogates, which every reader of text refuses."""
    rows = _rows(path, data)
    head = list(islice(rows, N_LOOKED_AT))
    good = [row for _, row in head if not isinstance(row, csv.Error)]
    names: list[str] = []
    if good and not (_looks_like_names(good) if header is None else header):
        names = [str(n) for n in range(1, len(good[0]) + 1)]
    for place, row in chain(head, rows):
        if isinstance(row, csv.Error):
            yield BadRow(place, f"not a row of CSV: {row}")
        elif not names:
            names = row
        elif len(row) != len(names):
            yield BadRow(place, f"the row has {len(row)} cells, the first row {len(names)}")
        else:
            yield Record(place, dict(zip(names, row, strict=True)))


def _rows(path: Path, data: io.BufferedReader) -> Iterator[tuple[str, list[str] | csv.Error]]:
    """(place, cells or what is wrong) of every row that is not blank."""
    csv.field_size_limit(CELL_LIMIT)
    lines = io.TextIOWrapper(data, "utf-8", errors="surrogateescape", newline="")
    first = lines.readline()
    delimiter = "\t" if suffix_of(path) == ".tsv" else max(",;\t", key=first.count)
    reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield place, error
            continue
        if cells:
            yield place, cells


def _looks_like_names(rows: Sequence[list[str]]) -> bool:
    """Whether the first row names the columns: short, different, no numbers, and nothing that a column holds below."""
    first = [cell.strip() for cell in rows[0]]
    if any(cell.casefold() in NAMES for cell in first):
        return True
    filled = [cell for cell in first if cell]
    if len(filled) < max(len(first) - 1, 1) or len(set(filled)) < len(filled):
        return False
    below = [{row[n].strip() for row in rows[1:] if n < len(row)} for n in range(len(first))]
    return not any(cell in column or not _is_name(cell) for cell, column in zip(first, below, strict=True) if cell)


def _is_name(cell: str) -> bool:
    long = len(cell) > LONGEST_NAME or len(cell.split()) > MOST_WORDS or "\n" in cell
    return not (long or cell.endswith((".", "?", "!", "。", "？", "！")) or NUMBER.fullmatch(cell))


def parquet(path: Path, data: io.BufferedReader) -> Records:
    """The rows of a Parquet file, batch by batch."""
    from pyarrow.parquet import ParquetFile

    return _arrow_rows(path, lambda: ParquetFile(_whole(data)).iter_batches(batch_size=N_BATCH))


N_BATCH = 1024
"""Rows of a Parquet file that are unpacked at once."""


def arrow(path: Path, data: io.BufferedReader) -> Records:
    """The rows of an Arrow file or stream, batch by batch."""
    from pyarrow import ipc

    def batches() -> Iterable[Any]:
        if not data.peek(6).startswith(b"ARROW1"):
            return ipc.open_stream(data)
        file = ipc.open_file(_whole(data))
        return map(file.get_batch, range(file.num_record_batches))

    return _arrow_rows(path, batches)


def _whole(data: io.BufferedReader) -> io.BufferedReader | io.BytesIO:
    """A file that can be read from its end, as these begin with what stands there."""
    return data if isinstance(data.raw, io.FileIO) else io.BytesIO(data.read())


def _arrow_rows(path: Path, batches: Callable[[], Iterable[Any]]) -> Records:
    """Rows of Arrow batches; what is null in a row is left out, as if it had never been written."""
    from pyarrow.lib import ArrowException

    n = 0
    try:
        for batch in batches():
            batch.validate(full=True)  # damaged offsets would crash the process
            for start in range(0, len(batch), N_BATCH):
                for row in batch.slice(start, N_BATCH).to_pylist():
                    n += 1
                    yield Record(f"{path}, row {n}", without_nulls(row))
    except (ArrowException, MemoryError, OSError, OverflowError, ValueError) as error:
        reason = str(error).partition("\n")[0] or "out of memory"  # a damaged length asks for any size
        raise DataError(f"{path} is damaged after row {n} ({reason}). Write it or get it again.") from error
