"""Trees on the disk: rows of any number, read and tokenised once, then read back tree by tree, and found again by a
resumed run.

    tokens.bin    int32, all token ids behind each other       prompt | branch | branch | prompt | ...
    trained.bin   uint8, equally long: 1 where a token is learnt
    trees.bin     int32, for each tree the tokens learnt in it, then the lengths of prompt, branch, branch, ...
    rows.bin      int32, for each row its trees (0: dropped), whether it was cut, whether it became several
    shelf.json    written last: without it the shelf is not whole and is filled anew

Only the numbers of rows and trees are held in memory; tokens come from the page cache when a batch asks for them.
"""

import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from posttrain.functional.layout import Branch, Tree

from .trees import Grown

WHOLE = "shelf.json"
SCHEMA = 2
FILES = {"tokens": 4, "trained": 1, "trees": 4, "rows": 4}  # bytes of a number


class Lazy(Sequence[Tree]):
    """Trees that are read when they are asked for, one by one; a slice of them is as lazy."""

    @overload
    def __getitem__(self, place: int) -> Tree: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Tree]: ...
    def __getitem__(self, place: int | slice) -> Tree | Sequence[Tree]:
        if isinstance(place, slice):
            return Picked([self], np.arange(len(self))[place])
        return self._tree(range(len(self))[place])

    @abstractmethod
    def _tree(self, place: int) -> Tree:
        """The tree at a place that is there, from 0 on."""


class Shelf(Lazy):
    """The trees of a whole shelf, in the order in which they were put there. `facts` came with them; `rows` are those of
    rows.bin and `learnt` the number of learnt tokens of each tree."""

    def __init__(self, folder: Path) -> None:
        said = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
        self.facts: dict[str, Any] = said["facts"]
        self._tokens = np.memmap(folder / "tokens.bin", np.int32, "r")
        self._trained = np.memmap(folder / "trained.bin", np.uint8, "r")
        trees = np.fromfile(folder / "trees.bin", np.int32).reshape(said["trees"], -1)
        self.learnt, self._lengths = trees[:, 0], trees[:, 1:]
        self.rows = np.fromfile(folder / "rows.bin", np.int32).reshape(-1, 3)
        self._starts = np.concatenate([[0], self._lengths.sum(1, dtype=np.int64).cumsum()])

    def __len__(self) -> int:
        return len(self._lengths)

    def _tree(self, place: int) -> Tree:
        start, end = self._starts[place : place + 2]
        ids, trained = self._tokens[start:end].tolist(), self._trained[start:end].astype(bool).tolist()
        ends = list(accumulate(self._lengths[place].tolist()))
        branches = tuple(Branch(tuple(ids[a:b]), tuple(trained[a:b])) for a, b in pairwise(ends))
        return Tree(tuple(ids[: ends[0]]), branches)


class Picked(Lazy):
    """Trees of several sequences laid behind each other, in the order of `places`; none is read before it is asked for."""

    def __init__(self, parts: Sequence[Sequence[Tree]], places: NDArray[np.int64]) -> None:
        self._parts, self._places = parts, places
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return len(self._places)

    def _tree(self, place: int) -> Tree:
        where = self._places[place]
        which = int(np.searchsorted(self._starts, where, side="right")) - 1
        return self._parts[which][int(where - self._starts[which])]


def fill(folder: Path, rows: Iterable[Grown], facts: Mapping[str, Any] | None = None) -> Shelf:
    """Puts rows, all of whose trees have the same number of branches, on a shelf. `facts` may be filled while the rows
    are drawn: they are written last. What a killed run left half filled is written over, and an error leaves nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        n_trees = _write(folder, rows)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    draft = folder / f"{WHOLE}.new"
    draft.write_text(json.dumps({"schema": SCHEMA, "trees": n_trees, "facts": facts or {}}), encoding="utf-8")
    draft.replace(folder / WHOLE)
    return Shelf(folder)


def _write(folder: Path, rows: Iterable[Grown]) -> int:
    """The four files; returns the number of trees."""
    n_trees = 0
    tokens, trained, trees, kept = files = [(folder / f"{name}.bin").open("wb") for name in FILES]
    try:
        for row in rows:
            n_trees += len(row.trees)
            kept.write(np.array([len(row.trees), row.cut, row.split], np.int32).tobytes())
            for tree in row.trees:
                pieces = [tree.prompt, *(branch.tokens for branch in tree.branches)]
                flags = bytes(_joined([(False,) * len(tree.prompt), *(branch.trained for branch in tree.branches)]))
                tokens.write(np.fromiter(_joined(pieces), np.int32).tobytes())
                trained.write(flags)
                trees.write(np.array([sum(flags), *map(len, pieces)], np.int32).tobytes())
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files:
            file.close()
    return n_trees


def found(folder: Path) -> Shelf | None:
    """The whole shelf in a folder, if there is one: its files hold as much as they say of each other."""
    try:
        if json.loads((folder / WHOLE).read_text(encoding="utf-8"))["schema"] != SCHEMA:
            return None
        shelf = Shelf(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    wanted = {"tokens": shelf._starts[-1], "trained": shelf._starts[-1]}
    whole = all((folder / f"{name}.bin").stat().st_size == n * FILES[name] for name, n in wanted.items())
    return shelf if whole and len(shelf) == shelf.rows[:, 0].sum() else None


def _joined(pieces: Iterable[Iterable[int]]) -> Iterator[int]:
    return (value for piece in pieces for value in piece)
