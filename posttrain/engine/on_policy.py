"""What objectives share that learn from the policy's own answers: how these are drawn, how often they are learnt from, and
what it costs to leave the reference.
"""

from typing import ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.functional.policy_gradient import log_ratio
from posttrain.models.policy import Models, Policy
from posttrain.schema.rows import Prompt, Row

from .method import Objective


class OnPolicy(Objective):
    """A loss on answers of the policy itself, drawn at a `temperature` that holds for policy, old policy and reference
    alike. Nothing else may change how answers are drawn: a cut tail (top-p) would make log-ratios lie."""

    temperature: float = Field(1.0, gt=0)
    """How far draws stray from the likeliest token."""
    kl: float = Field(0.05, ge=0)
    """What a nat away from the reference costs; larger holds tighter."""
    kl_target: float | None = Field(None, gt=0)
    """Nats an answer that the policy should stay away from the reference: `kl` rises and falls to hold it there."""
    kl_horizon: int = Field(2000, ge=1)
    """Answers over which `kl` adapts to its target; fewer adapt faster."""
    passes: int = Field(1, ge=1)
    """How often the answers of a step are learnt from."""
    minibatches: int = Field(1, ge=1)
    """Updates in one pass over the answers of a step."""

    reads: ClassVar[type[Row]] = Prompt
    online: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    @model_validator(mode="after")
    def _target_has_a_start(self) -> "OnPolicy":
        if self.kl_target is not None and not self.kl:
            raise ValueError("a `kl_target` needs a `kl` to begin with, such as 0.05")
        return self

    @property
    def learns_once(self) -> bool:
        """Whether answers are learnt from in one update, so that the policy that learns is the one that wrote them."""
        return self.passes * self.minibatches == 1

    def old_logps(self, batch: Batch, models: Models) -> Tensor:
        """(N,): log-probabilities as the answers were drawn."""
        return models.policy.logps(batch, self.temperature)

    def reference_logps(self, batch: Batch, models: Models) -> Tensor:
        """(N,): the same by the reference."""
        assert isinstance(models.reference, Policy)
        return models.reference.logps(batch, self.temperature)

    def drift(self, batch: Batch, old: Tensor, reference: Tensor) -> Batch:
        """The batch with what every answer is away from the reference, in nats (B,): log pi - log ref, summed."""
        return batch.having(kl=batch.per_answer(old - reference))

    def told(self, micro: Batch, total: Counts, logps: Tensor, old: Tensor) -> dict[str, Tensor]:
        """Metrics that every such loss has: KL in nats an answer; entropy in nats a token, as the mean surprise of what
        was drawn; how far this update is from the policy that wrote the answers, in nats a token."""
        x = log_ratio(logps.detach(), old)
        metrics = {"entropy": -old.sum() / total.tokens, "kl_to_old": (x.exp() - 1 - x).sum() / total.tokens}
        if "kl" in micro.columns:
            metrics["kl"] = micro.kl.sum() / total.answers
        return metrics
