"""A batch of trees. The batch knows its layout; objectives see answers, their counts and their columns.

Shapes: B answers. A batch of pairs has two branches a tree, and per-answer values hold the B/2 chosen ones first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from posttrain.functional.layout import Tree, split_by_tokens


class Counts(NamedTuple):
    """The denominators of every loss, over all micro-batches (and ranks): trained tokens, trees, and trained tokens
    of each tree's first branch (a pair's chosen answer)."""

    tokens: int
    rows: int
    chosen_tokens: int


@dataclass(frozen=True)
class Batch:
    """Trees with the same number of branches each. `columns` are per-answer values, (B,) each, by name."""

    trees: tuple[Tree, ...]
    columns: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for tree in self.trees:
            if len(tree.branches) != self.n_branches:
                raise ValueError("all trees of a batch need the same number of branches")
            if not tree.prompt and any(branch.trained[:1] == (True,) for branch in tree.branches):
                raise ValueError("the first token of a text has nothing to be predicted from: it cannot be trained")

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.__dict__["columns"][name]
        except KeyError:
            raise AttributeError(f"the batch has no column {name!r}") from None

    @property
    def n_branches(self) -> int:
        return len(self.trees[0].branches) if self.trees else 0

    def __len__(self) -> int:
        """B, the number of answers."""
        return len(self.trees) * self.n_branches

    def n_tokens(self) -> int:
        """Tokens that a forward pass computes."""
        return sum(tree.n_tokens() for tree in self.trees)

    def longest_path(self) -> int:
        return max((tree.longest_path() for tree in self.trees), default=0)

    def counts(self) -> Counts:
        trained = [[branch.n_trained() for branch in tree.branches] for tree in self.trees]
        return Counts(sum(map(sum, trained)), len(self.trees), sum(tree[0] for tree in trained))

    def having(self, **columns: Tensor) -> "Batch":
        """The batch with more per-answer values."""
        return Batch(self.trees, self.columns | columns)

    def select(self, rows: Sequence[int]) -> "Batch":
        """The trees at `rows`, with their answers' columns."""
        n = len(self.trees)
        answers = torch.tensor(
            [branch * n + row for branch in range(self.n_branches) for row in rows], dtype=torch.long
        )
        columns = {name: values[answers.to(values.device)] for name, values in self.columns.items()}
        return Batch(tuple(self.trees[row] for row in rows), columns)

    def split(self, micro_tokens: int) -> list["Batch"]:
        """Micro-batches of at most `micro_tokens` computed tokens; how it is cut never changes a gradient."""
        return [self.select(rows) for rows in split_by_tokens(self.trees, micro_tokens)]
