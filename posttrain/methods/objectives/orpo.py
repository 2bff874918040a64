"""Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691, equations 6 and 7).

    a(y)     = 1/|y| log pi(y | x),        odds(y) = exp a(y) / (1 - exp a(y))
    L        = NLL(chosen)  -  w / B  sum log sigmoid(log odds(chosen) - log odds(rejected))

Supervised fine-tuning on the chosen answers that also makes the rejected ones less likely: no reference, and no stage of
fine-tuning before it. NLL is the mean over all chosen tokens of the batch, prompts left out.

Shapes: B pairs; per-answer values are (2B,), the chosen ones first. `margin` in the log is the log of the odds ratio.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import Objective
from posttrain.functional.preference import bradley_terry, log_odds, pair_metrics
from posttrain.models.policy import Models
from posttrain.schema.rows import Pair, Row


class ORPO(Objective):
    """Learn to write the chosen answer and make the rejected one less likely, in one stage and without a reference."""

    weight: float = Field(0.1, gt=0)
    """Weight of the odds ratio's loss beside the chosen answers' cross-entropy (lambda in the paper)."""

    reads: ClassVar[type[Row]] = Pair
    recommended: ClassVar[Mapping[str, Any]] = {"learning_rate": 8e-6}

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        logps = models.policy.answer_logps(micro)  # (2B,)
        means = logps / micro.n_trained.to(logps.device)
        chosen, rejected = log_odds(means).chunk(2)  # (B,), (B,)
        nll = -logps.chunk(2)[0].sum() / total.chosen_tokens
        ratios = bradley_terry(chosen, rejected).sum() / total.rows
        return nll + self.weight * ratios, pair_metrics(chosen - rejected, total.rows, logp=means)
