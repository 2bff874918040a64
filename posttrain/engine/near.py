"""Near the start: an objective, and beside it the divergence from the model that the stage began with.

    L = L_objective + w / N  sum over all N trained tokens of  KL(start, policy)      over the whole vocabulary

(Li & Hoiem 2016, arXiv 1606.09282, for networks that classify; Ziegler et al. 2019, arXiv 1909.08593, for language.)
The states of a micro-batch are computed once for both terms, and each gives its share of the whole batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.functional.divergence import Direction
from posttrain.models.policy import Models, Policy

from .method import Loss


@dataclass(frozen=True)
class Near:
    """A loss with a pull of `weight` towards what the model of the start expects."""

    objective: Loss
    start: Policy
    weight: float
    direction: Direction = "forward"

    def prepare(self, batch: Batch, models: Models) -> Batch:
        return self.objective.prepare(batch, models)

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        with models.policy.once():
            loss, metrics = self.objective.loss(models, micro, total)
            ours = models.policy.expects(micro.trees)
            with torch.no_grad():
                theirs = self.start.expects(micro.trees)
            with models.policy.precision():
                kl = ours.divergence(theirs, self.direction).sum() / total.tokens
        return loss + self.weight * kl, {**metrics, "kl_to_start": kl}
