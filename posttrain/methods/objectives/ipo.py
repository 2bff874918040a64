"""Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036, equation 17).

    h(y)  = log pi(y | x) - log ref(y | x),          per token of y, or over all of it
    L     = 1/B  sum (h(chosen) - h(rejected) - 1 / (2 beta))^2

DPO asks for ever larger margins of pairs that were always decided alike; this loss asks for one of 1 / (2 beta) and pulls
back what is further. `reduction: mean` takes h per token, so that beta means the same for long and short answers, as in
the authors' own experiments; `sum` is the letter of the paper.

Shapes: B pairs; per-answer values are (2B,), the chosen ones first. Rewards in the log are beta h: their margin aims at 1/2.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import Objective
from posttrain.functional.preference import identity_preference, pair_metrics
from posttrain.models.policy import Models
from posttrain.schema.rows import Pair, Row


class IPO(Objective):
    """Prefer the chosen answer to the rejected one by a set margin, and by no more."""

    beta: float = Field(0.1, gt=0)
    """How tightly the policy is held to the reference: the margin aimed at is 1 / (2 beta) nats."""
    reduction: Literal["mean", "sum"] = "mean"
    """Whether that margin is one of nats per token, or of nats over whole answers."""

    reads: ClassVar[type[Row]] = Pair
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    recommended: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-6}

    def prepare(self, batch: Batch, models: Models) -> Batch:
        assert models.reference is not None
        return batch.having(reference=models.reference.answer_logps(batch))  # (2B,)

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        ratios = models.policy.answer_logps(micro) - micro.reference  # (2B,)
        if self.reduction == "mean":
            ratios = ratios / micro.n_trained.to(ratios.device)
        chosen, rejected = ratios.chunk(2)  # (B,), (B,)
        loss = identity_preference(chosen, rejected, self.beta).sum() / total.rows
        return loss, pair_metrics(self.beta * (chosen - rejected), total.rows, reward=self.beta * ratios)
