"""Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417, equations 3 to 5).

    L     = -1/B  sum log sigmoid(beta (log pi(chosen | x) - log pi(rejected | x)))  +  w NLL(chosen)

DPO with a uniform reference, which drops out, so one model is enough; the cross-entropy of the chosen answers takes the
reference's place and holds the policy. NLL is the mean over all chosen tokens of the batch.

Shapes: B pairs; per-answer values are (2B,), the chosen ones first.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import Objective
from posttrain.functional.preference import bradley_terry, pair_metrics
from posttrain.models.policy import Models
from posttrain.schema.rows import Pair, Row


class CPO(Objective):
    """Prefer the chosen answer to the rejected one and learn to write it, without a reference."""

    beta: float = Field(0.1, gt=0)
    """How much a nat of the whole answer is worth; larger settles a pair at a smaller difference."""
    nll: float = Field(1.0, ge=0)
    """Weight of the chosen answers' cross-entropy beside the preference loss; with 0 nothing holds the policy."""

    reads: ClassVar[type[Row]] = Pair
    recommended: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-6}

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        logps = models.policy.answer_logps(micro)  # (2B,)
        chosen, rejected = (self.beta * logps).chunk(2)  # (B,), (B,)
        loss = bradley_terry(chosen, rejected).sum() / total.rows
        if self.nll:
            loss = loss - self.nll * logps.chunk(2)[0].sum() / total.chosen_tokens
        means = logps / micro.n_trained.to(logps.device)
        return loss, pair_metrics(chosen - rejected, total.rows, logp=means)
