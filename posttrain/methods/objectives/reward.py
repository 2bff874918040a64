"""A reward model: what people, or another judge, would prefer (Ouyang et al. 2022, arXiv 2203.02155, InstructGPT step 2).

    L = 1/P  sum over P prompts, mean over the pairs of a prompt of  -log sigmoid(r(better) - r(worse) - m)

Any number of ranked answers to a prompt are learnt together, all their pairs in one step. `margin` takes m = margin times
the difference of the two answers' grades (Touvron et al. 2023, arXiv 2307.09288); `centring` adds that much of
(r(better) + r(worse))^2, which keeps rewards around zero (Eisenstein et al. 2023, arXiv 2312.09244).

A pair whose row says with which `probability` p the chosen answer is the better one counts both ways, as AI feedback is
learnt (Bai et al. 2022, arXiv 2212.08073): with l the loss above and x what stands in its sigmoid, p l(x) + (1-p) l(-x).

Shapes: B answers of P prompts, M pairs of answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import Objective
from posttrain.functional.layout import Tree
from posttrain.functional.preference import bradley_terry, expected
from posttrain.functional.ranking import ordered_pairs
from posttrain.models.policy import Models
from posttrain.models.scorer import Scorer
from posttrain.schema.rows import Ranked, Row

MOST_TREES = 512  # whose answers say what an average answer scores


class Reward(Objective):
    """Learn to score answers from which of them are preferred."""

    margin: float = Field(0.0, ge=0)
    """How far apart the scores of two answers must be, as a multiple of the difference of their grades."""
    centring: float = Field(0.0, ge=0)
    """How strongly the scores of a pair are drawn around zero; 0.01 is common."""

    reads: ClassVar[type[Row]] = Ranked
    scores: ClassVar[bool] = True
    recommended: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5}

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(models.policy, Scorer)
        rewards = models.policy.rewards(micro)  # (B,)
        pairs = ordered_pairs(micro.tree_of, micro.grades)
        weight = pairs.weight.to(rewards) / total.rows  # (M,)
        better, worse = rewards[pairs.better], rewards[pairs.worse]
        apart = self.margin * (micro.grades[pairs.better] - micro.grades[pairs.worse]).to(rewards)
        sure = micro.chances[pairs.better].to(rewards)
        won, lost = bradley_terry(better - apart, worse), bradley_terry(worse + apart, better)
        loss = (weight * expected(sure, won, lost)).sum()
        if self.centring:
            loss = loss + self.centring * (weight * (better + worse) ** 2).sum()
        metrics = {
            "accuracy": (weight * (better > worse)).sum(),
            "margin": (weight * (better - worse)).sum(),
            "reward": rewards.sum() / total.answers,
        }
        return loss, metrics

    @torch.no_grad()
    def learnt(self, models: Models, trees: Sequence[Tree]) -> Mapping[str, Any]:
        """What an average answer scores, which is taken off from then on, and how far scores lie apart."""
        assert isinstance(models.policy, Scorer)
        rewards = models.policy.rewards(Batch(tuple(trees[:: -(-len(trees) // MOST_TREES)])))
        return {"offset": float(rewards.mean()), "spread": float(rewards.std(correction=0))}
