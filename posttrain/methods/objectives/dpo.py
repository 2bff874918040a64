"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290).

    r(y)  = beta (log pi(y | x) - log ref(y | x))
    L     = -1/B  sum log sigmoid(r(chosen) - r(rejected))

With m = r(chosen) - r(rejected) and l(m) = -log sigmoid(m), other losses of the same margin:

    sigmoid   (1-e) l(m) + e l(-m)               e, `label_smoothing`, mixes in the flipped pair (cDPO, Mitchell 2023)
    robust    ((1-e) l(m) - e l(-m)) / (1-2e)    l without the flipped pairs, in expectation (Chowdhury et al. 2024,
                                                 arXiv 2403.00409)
    hinge     max(0, 1 - m)                      a margin of 1 is enough (SLiC, Zhao et al. 2023, arXiv 2305.10425)

A row may say with which `probability` p its chosen answer is the better one, as AI feedback does (Bai et al. 2022, arXiv
2212.08073). Its loss is then p loss(m) + (1-p) loss(-m), whichever the loss is: label smoothing of each row by itself.

`nll` adds that much of the chosen answers' cross-entropy per token, which keeps their likelihood from falling (Pang et
al. 2024, arXiv 2404.19733).

Shapes: B pairs; per-answer values are (2B,), the chosen ones first.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import Objective
from posttrain.functional.preference import bradley_terry, expected, hinge, pair_metrics, robust
from posttrain.models.policy import Models
from posttrain.schema.rows import Pair, Row


class DPO(Objective):
    """Prefer the chosen answer to the rejected one, held to the model before the stage."""

    beta: float = Field(0.1, gt=0)
    """How tightly the policy is held to the reference; larger holds tighter."""
    loss_type: Literal["sigmoid", "hinge", "robust"] = "sigmoid"
    """What is asked of the margin: as much as there can be, no more than 1, or what sigmoid would ask without the labels
    that are wrong."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs taken to be labelled the wrong way round; sigmoid trusts its labels less, and robust corrects for it."""
    nll: float = Field(0.0, ge=0)
    """Weight of the chosen answers' cross-entropy beside the preference loss; larger drifts less."""

    reads: ClassVar[type[Row]] = Pair
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    recommended: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-6}

    @model_validator(mode="after")
    def _smoothing_has_its_loss(self) -> "DPO":
        if self.loss_type == "hinge" and self.label_smoothing:
            raise ValueError(
                "`label_smoothing` does nothing to `loss_type: hinge`: leave it out, or take `loss_type: sigmoid`"
            )
        if self.loss_type == "robust" and not self.label_smoothing:
            raise ValueError(
                "`loss_type: robust` must know the share of wrong labels: give `label_smoothing: 0.1`, or take `loss_type: sigmoid`"
            )
        return self

    def prepare(self, batch: Batch, models: Models) -> Batch:
        assert models.reference is not None
        return batch.having(reference=models.reference.answer_logps(batch))  # (2B,)

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        logps = models.policy.answer_logps(micro)  # (2B,)
        rewards = self.beta * (logps - micro.reference)
        chosen, rejected = rewards.chunk(2)  # (B,), (B,)
        sure = micro.chances[: len(chosen)].to(rewards)  # (B,)
        loss = expected(sure, self._of_pairs(chosen, rejected), self._of_pairs(rejected, chosen)).sum() / total.rows
        if self.nll:
            loss = loss - self.nll * logps.chunk(2)[0].sum() / total.chosen_tokens
        return loss, pair_metrics(chosen - rejected, total.rows, reward=rewards)

    def _of_pairs(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """(B,), (B,) -> (B,): the loss of each pair, by its rewards."""
        if self.loss_type == "hinge":
            return hinge(chosen, rejected)
        if self.loss_type == "robust":
            return robust(chosen, rejected, self.label_smoothing)
        return bradley_terry(chosen, rejected, self.label_smoothing)
