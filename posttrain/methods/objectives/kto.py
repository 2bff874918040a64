"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306, equations 7 and 8).

    h(y)  = log pi(y | x) - log ref(y | x)
    z     = max(0, mean of h(y' | x) over mismatched y')            how far the policy is from the reference; no gradient
    L     = 1/B  sum  w_D (1 - sigmoid(beta (h - z)))   where y is good
                      w_U (1 - sigmoid(beta (z - h)))   where it is not

Answers are good or bad one by one: no pairs are needed, and of pairs both halves are used. A mismatched y' is the next
row's answer, the last row's being the first's, unless the batch gives it to x itself: made of the live batch, in whatever
order it is drawn. Where none is left, as in a batch of one row, z is 0.

Shapes: B answers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import Objective
from posttrain.functional.layout import Branch, Tree
from posttrain.functional.preference import prospect
from posttrain.models.policy import Models
from posttrain.schema.rows import Labelled, Row


class KTO(Objective):
    """Make good answers likelier and bad ones less likely, one by one, held to the model before the stage."""

    beta: float = Field(0.1, gt=0)
    """How tightly the policy is held to the reference; larger holds tighter."""
    desirable: float = Field(1.0, gt=0)
    """Weight of good answers; weight times number should be 1 to 4/3 of what it is for bad ones."""
    undesirable: float = Field(1.0, gt=0)
    """Weight of bad answers; raise it where they are few."""

    reads: ClassVar[type[Row]] = Labelled
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    strays: ClassVar[bool] = True
    recommended: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-6}

    def prepare(self, batch: Batch, models: Models) -> Batch:
        assert models.reference is not None
        reference = models.reference.answer_logps(batch)  # (B,)
        good = (batch.grades > 0.5).to(reference)
        of_its_kind = torch.where(good > 0, good.sum(), (1 - good).sum())
        return batch.having(reference=reference, good=good, of_its_kind=of_its_kind, z=self._z(batch, models))

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        good = micro.good > 0
        rewards = self.beta * (models.policy.answer_logps(micro) - micro.reference)  # (B,)
        surplus = rewards - self.beta * micro.z
        weights = torch.where(good, self.desirable, self.undesirable)
        loss = (weights * prospect(surplus, good)).sum() / total.answers
        metrics = {
            "accuracy": torch.where(good, surplus > 0, surplus < 0).sum() / total.answers,
            "kl": micro.z.sum() / total.answers,
        }
        for name, kind in (("good", good), ("bad", ~good)):
            if bool(kind.any()):
                metrics[f"{name}_reward"] = (rewards / micro.of_its_kind)[kind].sum()
        return loss, metrics

    def _z(self, batch: Batch, models: Models) -> Tensor:
        """(B,): the same for all."""
        assert models.reference is not None
        strays = Batch(mismatched(batch.trees, models.policy.room))
        if not len(strays):
            return torch.zeros(len(batch), device=models.policy.device)
        ratios = models.policy.answer_logps(strays) - models.reference.answer_logps(strays)
        return ratios.mean().clamp(min=0).expand(len(batch))


def mismatched(trees: Sequence[Tree], room: Callable[[int], int]) -> tuple[Tree, ...]:
    """Every prompt with the answer of the next row, as much of it as there is `room` for behind a prompt of that length;
    none where that is an answer to the prompt in `trees`."""
    known = {(tree.prompt, branch.tokens) for tree in trees for branch in tree.branches}
    found = []
    for tree, following in zip(trees, (*trees[1:], *trees[:1]), strict=True):
        answer, fits = following.branches[0], room(len(tree.prompt))
        if (tree.prompt, answer.tokens) not in known:
            found.append(Tree(tree.prompt, (Branch(answer.tokens[:fits], answer.trained[:fits]),)))
    return tuple(tree for tree in found if any(tree.branches[0].trained))
