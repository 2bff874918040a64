"""From datasets to the trees that are trained on: each set is read once, row by row, onto a shelf of its own; a mix picks
from the shelves. Neither rows nor tokens are ever all in memory, and a resumed run finds the shelves and reads nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.functional.layout import Tree
from posttrain.schema.artifacts import Dataset
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Row

from .chat import ChatFormat
from .mix import mixed
from .read import stream
from .shelf import Picked, Shelf, fill, found
from .trees import Grown, grown, none_left

SAMPLE = 200

Look = Callable[[Sequence[Row]], object]


@dataclass(frozen=True)
class Planted:
    """Trees, and how many rows there were, were cut, dropped, or split; `decisions` say how the rows were read and
    `skipped` which could not be."""

    trees: Sequence[Tree]
    rows: int
    cut: int
    dropped: int
    split: int
    n_trained: int
    decisions: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    n_skipped: int = 0

    def facts(self) -> dict[str, int | list[str]]:
        """What an artifact records of the rows it was trained on, and of those that could not be read."""
        counts = {
            "rows": self.rows,
            "rows_cut": self.cut,
            "rows_dropped": self.dropped,
            "trained_tokens": self.n_trained,
        }
        facts: dict[str, int | list[str]] = {"data": list(self.decisions), **counts}
        if self.split:
            facts |= {"rows_split": self.split}
        if self.n_skipped:
            facts |= {"rows_skipped": self.n_skipped, "skipped": list(self.skipped)}
        return facts


def shelved(dataset: Dataset, shape: type[Row], form: ChatFormat, longest: int, folder: Path, look: Look) -> Shelf:
    """The rows of a dataset on the shelf in `folder`, which is filled when it is not there. `look` is shown about SAMPLE
    rows, spread over all, before the shelf counts as filled. Raises DataError as reading does, or when no row is left."""
    if (shelf := found(folder)) is not None:
        return shelf
    facts: dict[str, Any] = {}

    def rows() -> Iterator[Grown]:
        read, sample, n_trees = stream(dataset, shape), Spread(SAMPLE), 0
        for row in read:
            sample.add(row)
            one = grown(row, form, longest, f"Row {sample.seen}")
            n_trees += len(one.trees)
            yield one
        decision = read.decision()
        facts.update(decision=decision, skipped=list(read.tally.skipped()), n_skipped=read.tally.bad)
        look(sample.rows)
        if not n_trees:
            raise none_left(sample.seen, longest, dataset.path)

    return fill(folder, rows(), facts)


def picked(shelves: Sequence[Shelf], weights: Sequence[float | None], epochs: Sequence[float], seed: int) -> Planted:
    """The trees of a mix of shelves, in its order, and what became of the rows that are in it."""
    sizes = [len(shelf.rows) for shelf in shelves]
    ends = np.cumsum(sizes)
    drawn, mix = mixed([range(end - n, end) for end, n in zip(ends, sizes, strict=True)], weights, epochs, seed)
    rows = np.concatenate([shelf.rows for shelf in shelves])
    first_tree = np.concatenate([[0], rows[:, 0].cumsum(dtype=np.int64)])
    used = np.asarray(drawn, np.int64)
    n_trees = rows[used, 0]
    within = np.arange(n_trees.sum()) - np.repeat(n_trees.cumsum() - n_trees, n_trees)
    places = np.repeat(first_tree[used], n_trees) + within
    learnt = np.concatenate([shelf.learnt for shelf in shelves])[places]
    return Planted(
        Picked(shelves, places),
        rows=len(used),
        cut=int(rows[used, 1].sum()),
        dropped=int((n_trees == 0).sum()),
        split=int(rows[used, 2].sum()),
        n_trained=int(learnt.sum(dtype=np.int64)),
        decisions=(*(shelf.facts["decision"] for shelf in shelves), *mix),
        skipped=tuple(line for shelf in shelves for line in shelf.facts["skipped"]),
        n_skipped=sum(shelf.facts["n_skipped"] for shelf in shelves),
    )


def shape_of(dataset: Dataset, shapes: Sequence[type[Row]]) -> type[Row]:
    """The first of some shapes that the first row of a dataset has; the first of all where none is, whose error tells."""
    for shape in shapes if len(shapes) > 1 else ():
        with suppress(DataError):
            next(stream(dataset, shape), None)
            return shape
    return shapes[0]


class Spread:
    """At least `n` rows and at most twice as many, evenly spread over a stream of any length; all of a short one."""

    def __init__(self, n: int) -> None:
        self.rows: list[Row] = []
        self.seen = 0
        self._most, self._step = 2 * n, 1

    def add(self, row: Row) -> None:
        """Shows it the next row."""
        if self.seen % self._step == 0:
            self.rows.append(row)
        if len(self.rows) > self._most:
            self.rows, self._step = self.rows[::2], 2 * self._step
        self.seen += 1
