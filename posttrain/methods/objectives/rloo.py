"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740).

    r_i = score_i - k (log pi_old(y_i) - log ref(y_i)),   A_i = r_i - mean of the others to the same prompt
    L   = mean over answers of  max(-rho_i A_i, -clip(rho_i, 1 - e, 1 + e) A_i),   rho_i = pi(y_i) / pi_old(y_i)

A whole answer is one action, so its tokens share one ratio and KL is part of the reward. Shapes: B answers, N tokens.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.on_policy import OnPolicy
from posttrain.functional.policy_gradient import clipped_surrogate, leave_one_out, log_ratio
from posttrain.models.policy import Models


class RLOO(OnPolicy):
    """Reinforcement learning on whole answers, each against the others to its prompt; needs no critic."""

    clip: float = Field(0.2, gt=0)
    """How far the probability of an answer may move from where it was drawn, as a share."""

    recommended: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-6, "answers": 4, "batch_size": 16}

    def prepare(self, batch: Batch, models: Models) -> Batch:
        old, reference = self.old_logps(batch, models), self.reference_logps(batch, models)  # (N,), (N,)
        batch = self.drift(batch, old, reference)
        earned = (batch.reward - batch.penalty).to(old) - batch.kl_coefficient.to(old) * batch.kl  # (B,)
        advantages = leave_one_out(earned, batch.group.to(old.device))
        return batch.having(advantage=advantages).having_tokens(old=old)

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        logps = models.policy.logps(micro, self.temperature)  # (N,)
        x = log_ratio(micro.per_answer(logps - micro.old), 0.0)  # (B,): sums of long answers differ in few digits
        losses, held = clipped_surrogate(x, micro.advantage, self.clip, self.clip)
        metrics = {"clipped": held.sum() / total.answers, **self.told(micro, total, logps, micro.old)}
        return losses.sum() / total.answers, metrics
