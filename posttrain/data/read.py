"""From files to rows of the shape that a method reads; the decision how is returned as one line to print.

    records -> where -> rows of one shape -> length -> duplicates -> the first `take`

Rows come one after another (`stream`); `read` gathers them. A bad row is counted, the first twenty are listed:
`file:line: what is wrong`. It stops the reading once all were counted, or is skipped, as the dataset says.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Generic, TypeVar

from posttrain.schema.artifacts import Dataset
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Row

from .cells import LeftOut
from .containers import Said, records
from .decision import Tally, how
from .duplicates import unseen
from .files import is_row_file, row_files
from .filters import check, check_columns, misfit
from .record import BadRow, NotReadable, Record
from .shapes import Recognised, recognise

R = TypeVar("R", bound=Row)

N_SAMPLE = 100
"""How many rows of a file decide what its columns are."""


@dataclass(frozen=True)
class Reading(Generic[R]):
    """Rows of one shape, and how they were read, in one line. `skipped` tells of the bad rows that were left out, and
    `n_skipped` counts them."""

    rows: list[R]
    decision: str
    skipped: tuple[str, ...] = ()
    n_skipped: int = 0


def read(dataset: Dataset, shape: type[R], *, limit: int | None = None) -> Reading[R]:
    """The rows of a dataset as `shape`, at most `limit` (and at most the dataset's own `take`) of them. Rows of token
    ids come as they are, where `shape` is learnt from.

    Raises DataError when a file or a row cannot be read, when the columns do not fit, or when no row is left.
    """
    rows = Stream(dataset, shape, limit)
    found = list(rows)
    decision = rows.decision()
    return Reading(found, decision, tuple(rows.tally.skipped()), rows.tally.bad)


def stream(dataset: Dataset, shape: type[R], *, limit: int | None = None) -> "Stream[R]":
    """The rows that `read` gives, one after another and never all in memory. Ask for its `decision()` at the end."""
    return Stream(dataset, shape, limit)


class Stream(Iterator[R]):
    """Rows of one shape as they are read. `tally` counts what has come so far."""

    def __init__(self, dataset: Dataset, shape: type[R], limit: int | None = None) -> None:
        self.dataset, self.shape, self.tally = dataset, shape, Tally()
        limits = [n for n in (dataset.take, limit) if n is not None]
        fresh = unseen(self._all(), dataset.deduplicate, self.tally.left_out)
        self._rows = islice(fresh, min(limits) if limits else None)

    def __next__(self) -> R:
        row = next(self._rows)
        self.tally.add(row)
        return row

    def decision(self) -> str:
        """How the rows that came were read. Raises DataError when bad ones were among them and the dataset does not
        say to skip them, or when none came."""
        if self.tally.bad and self.dataset.on_bad_row == "stop":
            raise DataError(_bad(self.tally, self._place()))
        if not self.tally.rows:
            raise DataError(_none(self.tally, self._place()))
        return self.tally.in_one_line()

    def _place(self) -> Path:
        """The file, where there is one, else the folder or pattern."""
        path, names = self.dataset.path, list(self.dataset.files)
        return path / names[0] if len(names) == 1 else path

    def _all(self) -> Iterator[R]:
        part = self.dataset.part if self.dataset.path.is_file() or self.dataset.files else ""
        for path in _files(self.dataset):
            yield from self._of_file(path, Said(part, self.dataset.header))

    def _of_file(self, path: Path, said: Said) -> Iterator[R]:
        found = records(path, said)
        head = list(islice(found, N_SAMPLE))
        while not any(isinstance(record, Record) for record in head) and (more := next(found, None)):
            head.append(more)
        sample = [record.columns for record in head if isinstance(record, Record)]
        if not sample:
            for record in head:
                self.tally.add_bad(record)  # type: ignore[arg-type]
            return
        check_columns(self.dataset.where, sample, path)
        recognised = recognise(sample, self.shape, self.dataset.columns, str(path))  # type: ignore[arg-type]
        self.tally.read.setdefault(how(recognised, sample), []).append(path.name)
        yield from self._converted(chain(head, found), recognised)

    def _converted(self, found: Iterable[Record | BadRow], recognised: Recognised) -> Iterator[R]:
        left_out = self.tally.left_out
        for record in found:
            if isinstance(record, BadRow):
                self.tally.add_bad(record)
                continue
            try:
                check(self.dataset.where, record.columns)
                rows = recognised.convert(record.columns)
            except NotReadable as why:
                self.tally.add_bad(BadRow(record.place, str(why)))
            except RecursionError:
                self.tally.add_bad(BadRow(record.place, "values are nested too deeply to be read"))
            except LeftOut as why:
                left_out[str(why)] += 1
            else:
                for row in rows:
                    if why_not := misfit(row, self.dataset.min_chars, self.dataset.max_chars):
                        left_out[why_not] += 1
                    else:
                        yield row  # type: ignore[misc]


def _files(dataset: Dataset) -> list[Path]:
    """The files of a dataset in order: those it lists, else those at its path."""
    listed = [dataset.path / name for name in dataset.files]
    found = [path for path in listed if len(listed) == 1 or is_row_file(path)]
    return found or row_files(dataset.path, dataset.part)


def _bad(tally: Tally, path: Path) -> str:
    return "\n".join(
        (
            f"{tally.bad} row{'s' * (tally.bad > 1)} of {path} cannot be read:",
            *tally.skipped(),
            "Mend or remove them, or leave them out with `on_bad_row: skip`; or, where the wrong column is read, say "
            "which is right with `columns: {role: column}`.",
        )
    )


def _none(tally: Tally, path: Path) -> str:
    left_out = [f"{n} left out as {reason}" for reason, n in tally.left_out.items()]
    bad = [f"{tally.bad} cannot be read, the first {tally.listed[0]}"] if tally.bad else []
    why = "; ".join([*left_out, *bad]) or "it holds none"
    return f"There are no rows in {path} ({why}). Name a file with rows for this stage."
