"""Trees on the disk: rows of any number, tokenised once, read back one by one, and found again by a resumed run.

    tokens.bin    int32, all token ids behind each other       prompt | branch | branch | prompt | ...
    trained.bin   uint8, equally long: 1 where a token is learnt
    lengths.bin   int32, for each tree its place among branches and then: prompt, branch, branch, ...
    shelf.json    written last: without it the shelf is not whole and is filled anew

Only the lengths are held in memory; tokens come from the page cache when a batch asks for them.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

from posttrain.functional.layout import Branch, Tree

WHOLE = "shelf.json"
SCHEMA = 1


class Shelf(Sequence[Tree]):
    """The trees of a whole shelf, in the order in which they were put there. `facts` came with them."""

    def __init__(self, folder: Path) -> None:
        said = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
        self.facts: dict[str, Any] = said["facts"]
        self._tokens = np.memmap(folder / "tokens.bin", np.int32, "r")
        self._trained = np.memmap(folder / "trained.bin", np.uint8, "r")
        self._lengths = np.fromfile(folder / "lengths.bin", np.int32).reshape(said["trees"], -1)
        self._starts = np.concatenate([[0], self._lengths.sum(1, dtype=np.int64).cumsum()])

    def __len__(self) -> int:
        return len(self._lengths)

    @overload
    def __getitem__(self, place: int) -> Tree: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Tree]: ...
    def __getitem__(self, place: int | slice) -> Tree | Sequence[Tree]:
        if isinstance(place, slice):
            return tuple(self[i] for i in range(*place.indices(len(self))))
        place = range(len(self))[place]
        start, end = self._starts[place : place + 2]
        ids, trained = self._tokens[start:end].tolist(), self._trained[start:end].astype(bool).tolist()
        ends = list(accumulate(self._lengths[place].tolist()))
        branches = tuple(Branch(tuple(ids[a:b]), tuple(trained[a:b])) for a, b in pairwise(ends))
        return Tree(tuple(ids[: ends[0]]), branches)


def fill(folder: Path, trees: Iterable[Tree], facts: dict[str, Any] | None = None) -> Shelf:
    """Puts trees, all with the same number of branches, on a shelf. `facts` may be filled while the trees are drawn:
    they are written last. What a killed run left half filled is written over."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WHOLE).unlink(missing_ok=True)
    names = [folder / f"{name}.bin" for name in ("tokens", "trained", "lengths")]
    n_trees = 0
    with names[0].open("wb") as tokens, names[1].open("wb") as trained, names[2].open("wb") as lengths:
        for tree in trees:
            n_trees += 1
            pieces = [tree.prompt, *(branch.tokens for branch in tree.branches)]
            flags = [(False,) * len(tree.prompt), *(branch.trained for branch in tree.branches)]
            tokens.write(np.fromiter(_joined(pieces), np.int32).tobytes())
            trained.write(bytes(_joined(flags)))
            lengths.write(np.array([len(piece) for piece in pieces], np.int32).tobytes())
        for file in (tokens, trained, lengths):
            file.flush()
            os.fsync(file.fileno())
    said = {"schema": SCHEMA, "trees": n_trees, "facts": facts or {}}
    draft = folder / f"{WHOLE}.new"
    draft.write_text(json.dumps(said), encoding="utf-8")
    draft.replace(folder / WHOLE)
    return Shelf(folder)


def found(folder: Path) -> Shelf | None:
    """The whole shelf in a folder, if there is one."""
    try:
        said = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
        return Shelf(folder) if said["schema"] == SCHEMA and said["trees"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _joined(pieces: Iterable[Iterable[int]]) -> Iterator[int]:
    return (value for piece in pieces for value in piece)
