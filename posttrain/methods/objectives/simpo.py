"""Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734, equation 6).

    a(y)  = 1/|y| log pi(y | x)                      mean log-probability of a token
    L     = -1/B  sum log sigmoid(beta (a(chosen) - a(rejected)) - gamma)

It has no reference: an answer's reward is what decoding goes by, and a pair is settled once its margin is well above
gamma. Nothing else holds the policy, so the likelihood of both answers can fall; `nll` adds that much of the chosen
answers' cross-entropy per token, which the paper does not have.

Shapes: B pairs; per-answer values are (2B,), the chosen ones first. `margin` in the log is beta (a(chosen) - a(rejected)).
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


class SimPO(Objective):
    """Prefer the chosen answer to the rejected one by mean log-probability and a margin, without a reference."""

    beta: float = Field(2.0, gt=0)
    """How much a nat per token is worth; larger settles a pair at a smaller difference."""
    gamma: float = Field(1.0, ge=0)
    """The lead in reward that is asked of the chosen answer; larger asks for more."""
    nll: float = Field(0.0, ge=0)
    """Weight of the chosen answers' cross-entropy beside the preference loss; larger drifts less."""

    reads: ClassVar[type[Row]] = Pair
    recommended: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-6}

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        logps = models.policy.answer_logps(micro)  # (2B,)
        means = logps / micro.n_trained.to(logps.device)
        chosen, rejected = (self.beta * means).chunk(2)  # (B,), (B,)
        loss = bradley_terry(chosen - self.gamma, rejected).sum() / total.rows
        if self.nll:
            loss = loss - self.nll * logps.chunk(2)[0].sum() / total.chosen_tokens
        return loss, pair_metrics(chosen - rejected, total.rows, logp=means)
