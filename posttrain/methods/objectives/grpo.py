"""Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300).

An answer is as good as it is better than others to the same prompt.

    A_i = (r_i - mean of its group) / (std of its group + 1e-4),   rho_t = pi(y_t) / pi_old(y_t)
    L   = mean over answers, mean over their tokens of  max(-rho A, -clip(rho, 1 - e, 1 + e) A) + k KL_3(pi || ref)

Known variants change one thing each:
    DAPO      (Yu et al. 2025, 2503.14476)    `over: tokens`, `clip_above: 0.28`, `kl: 0`
    Dr. GRPO  (Liu et al. 2025, 2503.20783)   `over: length`, `scale: false`, `kl: 0`
    GSPO      (Zheng et al. 2025, 2507.18071) `ratio: answer`, `clip: 3e-4`, `clip_above: 4e-4`, `kl: 0`

`over` says what a token's loss is divided by: its answer's length, then the answers (`answers`); all tokens of the batch
(`tokens`); or the longest answer there may be (`length`), the same for every answer.

KL_3 stands in the loss, as in the paper. Its value is an estimate of KL(pi || ref), its gradient one of KL(ref || pi): it
holds on to what the reference finds likely, where the price that PPO and RLOO put into the reward is KL(pi || ref) itself.

Shapes: B answers, N tokens.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.on_policy import OnPolicy
from posttrain.functional.policy_gradient import clipped_surrogate, group_advantages, k3, log_ratio
from posttrain.models.policy import Models


class GRPO(OnPolicy):
    """Reinforcement learning from how much better an answer is than others to the same prompt; needs no critic."""

    kl: float = Field(0.04, ge=0)
    """What leaving the reference costs; 0 needs no reference."""
    clip: float = Field(0.2, gt=0)
    """How far down the probability of a token may move from where it was drawn, as a share."""
    clip_above: float | None = Field(None, gt=0)
    """How far up it may move; as far as down if not given."""
    scale: bool = True
    """Divide advantages by their group's standard deviation."""
    over: Literal["answers", "tokens", "length"] = "answers"
    """What a token's loss is divided by: its answer's length and the answers, all tokens, or the longest answer there may be."""
    ratio: Literal["token", "answer"] = "token"
    """Compare probabilities token by token, or of whole answers by their geometric mean."""

    recommended: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-6, "answers": 8, "batch_size": 8}

    def needed(self) -> frozenset[str]:
        return self.needs if self.kl else frozenset()

    def prepare(self, batch: Batch, models: Models) -> Batch:
        earned = batch.reward - batch.penalty  # (B,)
        batch = batch.having(advantage=group_advantages(earned, batch.group, self.scale))
        if self.learns_once and not self.kl:
            return batch
        old = self.old_logps(batch, models)
        batch = batch.having_tokens(old=old)
        if not self.kl:
            return batch
        reference = self.reference_logps(batch, models)
        return self.drift(batch, old, reference).having_tokens(reference=reference)

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        logps = models.policy.logps(micro, self.temperature)  # (N,)
        old = micro.old if "old" in micro.token_columns else logps.detach()
        x = log_ratio(logps, old)
        if self.ratio == "answer":
            x = micro.per_token(micro.per_answer(x) / micro.n_trained.to(x))
        advantage = micro.per_token(micro.advantage.to(x))
        above = self.clip if self.clip_above is None else self.clip_above
        losses, held = clipped_surrogate(x, advantage, self.clip, above)
        if self.kl:
            losses = losses + micro.per_token(micro.kl_coefficient.to(x)) * k3(logps, micro.reference)
        metrics = {"clipped": held.sum() / total.tokens, **self.told(micro, total, logps, old)}
        return (losses * self.weights(micro, total).to(losses)).sum(), metrics

    def weights(self, micro: Batch, total: Counts) -> Tensor:
        """(N,): what each token counts, so that all of a batch sum to the mean that `over` names."""
        if self.over == "tokens":
            return micro.n_trained.new_ones(int(micro.n_trained.sum())) / total.tokens
        if self.over == "answers":
            return micro.per_token(1 / (micro.n_trained * total.answers))
        return micro.per_token(1 / (micro.longest * total.answers))
