"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290).

    r(y)  = beta (log pi(y | x) - log ref(y | x))
    L     = -1/B  sum log sigmoid(r(chosen) - r(rejected))

Two options change one thing each: `label_smoothing` e mixes in the flipped pair, -(1-e) log sigmoid(m) - e log
sigmoid(-m) (cDPO, Mitchell 2023); `nll` adds that much of the chosen answers' cross-entropy per token, which keeps
their likelihood from falling (Pang et al. 2024, arXiv 2404.19733).

Shapes: B pairs; per-answer values are (2B,), the chosen ones first.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import Objective
from posttrain.functional.preference import bradley_terry
from posttrain.models.policy import Models
from posttrain.schema.rows import Pair, Row


class DPO(Objective):
    """Prefer the chosen answer to the rejected one, held to the model before the stage."""

    beta: float = Field(0.1, gt=0)
    """How tightly the policy is held to the reference; larger holds tighter."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs taken to be labelled the wrong way round."""
    nll: float = Field(0.0, ge=0)
    """Weight of the chosen answers' cross-entropy beside the preference loss; larger drifts less."""

    reads: ClassVar[type[Row]] = Pair
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    recommended: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-6}

    def prepare(self, batch: Batch, models: Models) -> Batch:
        assert models.reference is not None
        return batch.having(reference=models.reference.answer_logps(batch))  # (2B,)

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        logps = models.policy.answer_logps(micro)  # (2B,)
        chosen, rejected = (self.beta * (logps - micro.reference)).chunk(2)  # (B,), (B,)
        loss = bradley_terry(chosen, rejected, self.label_smoothing).sum() / total.rows
        if self.nll:
            loss = loss - self.nll * logps.chunk(2)[0].sum() / total.chosen_tokens
        metrics = {
            "accuracy": (chosen > rejected).sum() / total.rows,
            "margin": (chosen - rejected).sum() / total.rows,
            "chosen_reward": chosen.sum() / total.rows,
        }
        return loss, metrics
