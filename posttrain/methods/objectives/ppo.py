"""Proximal policy optimisation for language (Ouyang et al. 2022, arXiv 2203.02155, InstructGPT step 3).

The clipped loss is that of Schulman et al. 2017, arXiv 1707.06347.

    r_t = -k (log pi_old(y_t) - log ref(y_t)) + [t is the last] score          k: the price of KL
    A, R = GAE(r, V_old);  A whitened over the batch
    L   = mean over tokens of  max(-rho A, -clip(rho, 1 - e, 1 + e) A)  +  c max((V - R)^2, (clip(V, V_old +- e_v) - R)^2) / 2

The score stands at the last token of an answer that ended. One that was cut off has not been judged: what its critic
expects behind it takes the place of the score, and `missing_end` is its price. `mix` adds pretraining text (PPO-ptx).

Shapes: B answers, N tokens of them.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.on_policy import OnPolicy
from posttrain.functional.policy_gradient import (
    clipped_surrogate,
    clipped_value,
    explained_variance,
    gae,
    log_ratio,
    whitened,
)
from posttrain.models.policy import Models


class PPO(OnPolicy):
    """Reinforcement learning from a reward, with a critic and a price on leaving the reference."""

    gamma: float = Field(1.0, gt=0, le=1)
    """How much a later token's reward counts at an earlier one."""
    lam: float = Field(0.95, ge=0, le=1)
    """How far advantages look ahead before they trust the critic; 1 trusts rewards alone."""
    clip: float = Field(0.2, gt=0)
    """How far the probability of a token may move from where it was drawn, as a share."""
    value_clip: float = Field(0.2, gt=0)
    """How far a value may move from what the critic said of the answer as it was drawn."""
    value_weight: float = Field(0.5, ge=0)
    """Weight of the critic's loss."""
    critic_rate: float = Field(1.0, gt=0)
    """How many times faster than the policy the critic learns."""

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "critic"})
    recommended: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-6, "answers": 1, "batch_size": 64}

    def prepare(self, batch: Batch, models: Models) -> Batch:
        assert models.critic is not None
        old, reference = self.old_logps(batch, models), self.reference_logps(batch, models)  # (N,), (N,)
        values = models.critic.values(batch)  # (N,)
        ended = batch.finished.to(old)
        score = ended * batch.reward.to(old) - batch.penalty.to(old)  # (B,)
        rewards = -batch.per_token(batch.kl_coefficient.to(old)) * (old - reference)
        last = batch.n_trained.cumsum(0).to(old.device) - 1
        rewards = rewards.index_add(0, last, score)
        after = torch.zeros_like(ended) if ended.all() else (1 - ended) * models.critic.rewards(batch)
        advantages, returns = gae(rewards, values, after, batch.n_trained, self.gamma, self.lam)
        explained, spread = (
            x.cpu().expand(len(batch)) for x in (explained_variance(values, returns), returns.std(correction=0))
        )
        batch = self.drift(batch, old, reference).having(explained=explained, spread=spread)
        return batch.having_tokens(old=old, value=values, advantage=whitened(advantages), returned=returns)

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        assert models.critic is not None
        logps = models.policy.logps(micro, self.temperature)  # (N,)
        surrogate, held = clipped_surrogate(log_ratio(logps, micro.old), micro.advantage, self.clip, self.clip)
        values = models.critic.values(micro)
        errors = clipped_value(values, micro.value, micro.returned, self.value_clip)
        value_loss = errors.sum() / total.tokens
        loss = surrogate.sum() / total.tokens + self.value_weight * value_loss
        metrics = {
            "value_loss": value_loss,
            "clipped": held.sum() / total.tokens,
            "explained_variance": micro.explained.sum() / total.answers,
            "returns_spread": micro.spread.sum() / total.answers,
        }
        return loss, {**metrics, **self.told(micro, total, logps, micro.old)}
