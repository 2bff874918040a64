"""Trees on the disk: rows of any number, read and tokenised once, then read back tree by tree, and found again by a
resumed run.

    tokens.bin    int32, all token ids behind each other       prompt | branch | branch | prompt | ...
    trained.bin   uint8, equally long: 1 where a token is learnt
    trees.bin     int32, for each tree the tokens learnt in it, and of how many pieces it is: a prompt and its branches
    pieces.bin    int32, the length of each piece of each tree
    grades.bin    float32, for each piece what its row says that it is worth, NaN where it says nothing
    chances.bin   float32, for each piece how likely it is the better one of its pair, NaN where there is no doubt
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
from math import isnan
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from posttrain.functional.layout import Branch, Tree

from .trees import Grown

WHOLE = "shelf.json"
SCHEMA = 4
FILES = {"tokens": 4, "trained": 1, "trees": 4, "pieces": 4, "grades": 4, "chances": 4, "rows": 4}  # bytes of a number


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
        self.learnt, n_pieces = np.fromfile(folder / "trees.bin", np.int32).reshape(said["trees"], 2).T
        self._pieces = np.fromfile(folder / "pieces.bin", np.int32)
        self._grades = np.fromfile(folder / "grades.bin", np.float32)
        self._chances = np.fromfile(folder / "chances.bin", np.float32)
        self.rows = np.fromfile(folder / "rows.bin", np.int32).reshape(-1, 3)
        self._first = np.concatenate([[0], n_pieces.cumsum(dtype=np.int64)])  # piece of each tree
        self._starts = np.concatenate([[0], self._pieces.cumsum(dtype=np.int64)])[self._first]

    def __len__(self) -> int:
        return len(self.learnt)

    def _tree(self, place: int) -> Tree:
        start, end = self._starts[place : place + 2]
        ids, trained = self._tokens[start:end].tolist(), self._trained[start:end].astype(bool).tolist()
        pieces = slice(*self._first[place : place + 2])
        ends = list(accumulate(self._pieces[pieces].tolist()))
        told = zip(_told(self._grades[pieces]), _told(self._chances[pieces]), strict=True)
        branches = tuple(
            Branch(tuple(ids[a:b]), tuple(trained[a:b]), grade, chance)
            for (a, b), (grade, chance) in zip(pairwise(ends), told, strict=True)
        )
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
    """Puts rows on a shelf. `facts` may be filled while the rows are drawn: they are written last. What a killed run left
    half filled is written over, and an error leaves nothing."""
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
    """The files of numbers; returns the number of trees."""
    n_trees = 0
    tokens, trained, trees, lengths, grades, chances, kept = files = [
        (folder / f"{name}.bin").open("wb") for name in FILES
    ]
    try:
        for row in rows:
            n_trees += len(row.trees)
            kept.write(np.array([len(row.trees), row.cut, row.split], np.int32).tobytes())
            for tree in row.trees:
                pieces = [tree.prompt, *(branch.tokens for branch in tree.branches)]
                flags = bytes(_joined([(False,) * len(tree.prompt), *(branch.trained for branch in tree.branches)]))
                tokens.write(np.fromiter(_joined(pieces), np.int32).tobytes())
                trained.write(flags)
                trees.write(np.array([sum(flags), len(pieces)], np.int32).tobytes())
                lengths.write(np.array(list(map(len, pieces)), np.int32).tobytes())
                grades.write(np.array([None, *(branch.grade for branch in tree.branches)], np.float32).tobytes())
                chances.write(np.array([None, *(branch.chance for branch in tree.branches)], np.float32).tobytes())
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
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    n_tokens, n_pieces = shelf._starts[-1], shelf._first[-1]
    wanted = {"tokens": n_tokens, "trained": n_tokens, "grades": n_pieces, "chances": n_pieces}
    whole = all((folder / f"{name}.bin").stat().st_size == n * FILES[name] for name, n in wanted.items())
    return shelf if whole and len(shelf) == shelf.rows[:, 0].sum() else None


def _told(values: NDArray[np.float32]) -> list[float | None]:
    """What rows say of the branches of a tree; its prompt comes first and has nothing."""
    return [None if isnan(value) else value for value in values.tolist()[1:]]


def _joined(pieces: Iterable[Iterable[int]]) -> Iterator[int]:
    return (value for piece in pieces for value in piece)
