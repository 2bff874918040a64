"""From files to rows of the shape that a method reads; the decision how is returned as one line to print.

A bad row stops the reading, after all of them were counted: `file:line: what is wrong`, the first twenty listed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from posttrain.schema.artifacts import Dataset
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Row

from .containers import BadRow, Record, Records, records
from .decision import How, how, in_one_line
from .files import is_row_file, row_files
from .layouts import LeftOut
from .shapes import Recognised, recognise
from .turns import NotReadable

R = TypeVar("R", bound=Row)

N_SAMPLE = 100
"""How many rows of a file decide what its columns are."""
N_LISTED = 20
"""How many bad rows an error lists."""


@dataclass(frozen=True)
class Reading(Generic[R]):
    """Rows of one shape, and how they were read, in one line."""

    rows: list[R]
    decision: str


@dataclass
class _Tally:
    """What is counted while files are read."""

    bad: list[BadRow] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read(dataset: Dataset, shape: type[R], *, limit: int | None = None) -> Reading[R]:
    """The rows of a dataset as `shape`, at most `limit` (and at most the dataset's own `take`) of them.

    Raises DataError when a file or a row cannot be read, when the columns do not fit, or when no row is left.
    """
    limits = [n for n in (dataset.take, limit) if n is not None]
    tally = _Tally()
    rows: list[R] = []
    decisions: dict[How, list[str]] = {}
    files = _files(dataset)
    for path in files:
        room = min(limits) - len(rows) if limits else None
        if room is not None and room <= 0:
            break
        found, decision = _read_file(path, shape, dataset.columns, room, tally)
        rows += found
        if decision:
            decisions.setdefault(decision, []).append(path.name)
    _check(rows, tally, files[0] if len(files) == 1 else dataset.path)
    return Reading(rows, in_one_line(rows, decisions, tally.left_out))


def _files(dataset: Dataset) -> list[Path]:
    """The files of a dataset in order: those it lists, else those at its path."""
    listed = [dataset.path / name for name in dataset.files]
    return [path for path in listed if len(listed) == 1 or is_row_file(path)] or row_files(dataset.path)


def _read_file(
    path: Path, shape: type[R], said: Mapping[str, str], room: int | None, tally: _Tally
) -> tuple[list[R], How | None]:
    """At most `room` rows of one file, and how they were read."""
    stream = records(path)
    head = list(islice(stream, N_SAMPLE))
    sample = [record.columns for record in head if isinstance(record, Record)]
    if not sample:
        tally.bad += [row for row in chain(head, stream) if isinstance(row, BadRow)]
        return [], None
    recognised = recognise(sample, shape, said, str(path))  # type: ignore[arg-type]
    rows = list(islice(_converted(chain(head, stream), recognised, tally), room))
    return rows, how(recognised, sample)  # type: ignore[return-value]


def _converted(stream: Records, recognised: Recognised, tally: _Tally) -> Iterator[Row]:
    for record in stream:
        if isinstance(record, BadRow):
            tally.bad.append(record)
            continue
        try:
            yield from recognised.convert(record.columns)
        except NotReadable as why:
            tally.bad.append(BadRow(record.place, str(why)))
        except LeftOut as why:
            tally.left_out[str(why)] += 1


def _check(rows: list[Any], tally: _Tally, path: Path) -> None:
    if tally.bad:
        listed = "\n".join(map(str, tally.bad[:N_LISTED]))
        n, more = len(tally.bad), len(tally.bad) - N_LISTED
        raise DataError(
            f"{n} row{'s' * (n > 1)} of {path} cannot be read:\n{listed}"
            + (f"\n… and {more} more." if more > 0 else "")
            + "\nMend or remove them; or, where the wrong column is read, say which is right with `columns: {role: column}`."
        )
    if not rows:
        why = "; ".join(f"{n} left out as {reason}" for reason, n in tally.left_out.items()) or "it holds none"
        raise DataError(f"There are no rows in {path} ({why}). Name a file with rows for this stage.")
