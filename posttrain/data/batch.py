"""A batch of trees. The batch knows its layout; objectives see answers, their counts and their columns.

Shapes: B answers, N trained tokens. Answers stand branch by branch: of a batch of pairs, the B/2 chosen ones first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from posttrain.functional.layout import Branch, Tree, answer_order, split_by_tokens


class Counts(NamedTuple):
    """The denominators of every loss, over all micro-batches (and ranks): trained tokens, trees, trained tokens of each
    tree's first branch (a pair's chosen answer), and answers."""

    tokens: int
    rows: int
    chosen_tokens: int
    answers: int


@dataclass(frozen=True)
class Batch:
    """Trees, each with one or more answers. `columns` are per-answer values, (B,) each, by name, and `token_columns` such
    of trained tokens, (N,) each."""

    trees: tuple[Tree, ...]
    columns: dict[str, Tensor] = field(default_factory=dict)
    token_columns: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for tree in self.trees:
            if not tree.prompt and any(branch.trained[:1] == (True,) for branch in tree.branches):
                raise ValueError("the first token of a text has nothing to be predicted from: it cannot be trained")

    def __getattr__(self, name: str) -> Tensor:
        for columns in ("columns", "token_columns"):
            if name in self.__dict__.get(columns, {}):
                return self.__dict__[columns][name]
        raise AttributeError(f"the batch has no column {name!r}")

    @cached_property
    def branches(self) -> list[Branch]:
        """The B answers in their order."""
        return [self.trees[tree].branches[branch] for _, tree, branch in answer_order(self.trees)]

    def __len__(self) -> int:
        """B, the number of answers."""
        return sum(len(tree.branches) for tree in self.trees)

    def n_tokens(self) -> int:
        """Tokens that a forward pass computes."""
        return sum(tree.n_tokens() for tree in self.trees)

    def longest_path(self) -> int:
        return max((tree.longest_path() for tree in self.trees), default=0)

    def counts(self) -> Counts:
        trained = [[branch.n_trained() for branch in tree.branches] for tree in self.trees]
        return Counts(sum(map(sum, trained)), len(self.trees), sum(tree[0] for tree in trained), len(self))

    @cached_property
    def n_trained(self) -> Tensor:
        """(B,): how many tokens of each answer are trained."""
        return torch.tensor([branch.n_trained() for branch in self.branches])

    @cached_property
    def tree_of(self) -> Tensor:
        """(B,): the number of the tree that each answer is of."""
        return torch.tensor([tree for _, tree, _ in answer_order(self.trees)])

    @cached_property
    def grades(self) -> Tensor:
        """(B,): what the rows say that their answers are worth; NaN where they say nothing."""
        return torch.tensor([float("nan") if b.grade is None else b.grade for b in self.branches])

    @cached_property
    def chances(self) -> Tensor:
        """(B,): how likely each answer is the better one of its pair; 1 where its row does not doubt it."""
        return torch.tensor([1.0 if b.chance is None else b.chance for b in self.branches])

    def per_answer(self, values_N: Tensor) -> Tensor:
        """(N,) -> (B,): sums over the trained tokens of each answer."""
        sums = torch.zeros(len(self), device=values_N.device, dtype=values_N.dtype)
        return sums.index_add(0, self._answer_of(values_N), values_N)

    def per_token(self, values_B: Tensor) -> Tensor:
        """(B,) -> (N,): every trained token gets its answer's value."""
        return values_B[self._answer_of(values_B)]

    def _answer_of(self, like: Tensor) -> Tensor:
        return torch.arange(len(self)).repeat_interleave(self.n_trained).to(like.device)

    def having(self, **columns: Tensor) -> "Batch":
        """The batch with more per-answer values."""
        return replace(self, columns=self.columns | columns)

    def having_tokens(self, **columns: Tensor) -> "Batch":
        """The batch with more values of trained tokens."""
        return replace(self, token_columns=self.token_columns | columns)

    def select(self, rows: Sequence[int]) -> "Batch":
        """The trees at `rows`, with the columns of their answers and tokens."""
        trees = tuple(self.trees[row] for row in rows)
        if not self.columns and not self.token_columns:
            return Batch(trees)
        place = {(tree, branch): answer for answer, tree, branch in answer_order(self.trees)}
        answers = torch.tensor([place[rows[tree], branch] for _, tree, branch in answer_order(trees)], dtype=torch.long)
        tokens = torch.empty(0, dtype=torch.long)
        if self.token_columns:
            ends = self.n_trained.cumsum(0)
            starts = ends - self.n_trained
            pieces = [torch.arange(int(starts[answer]), int(ends[answer])) for answer in answers]
            tokens = torch.cat(pieces) if pieces else tokens
        return Batch(trees, _taken(self.columns, answers), _taken(self.token_columns, tokens))

    def split(self, micro_tokens: int) -> list["Batch"]:
        """Micro-batches of at most `micro_tokens` computed tokens; how it is cut never changes a gradient."""
        return [self.select(rows) for rows in split_by_tokens(self.trees, micro_tokens)]


def _taken(columns: dict[str, Tensor], places: Tensor) -> dict[str, Tensor]:
    return {name: values[places.to(values.device)] for name, values in columns.items()}
