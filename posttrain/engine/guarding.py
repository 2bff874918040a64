"""What a training can be told against forgetting and for stopping early: options of every objective.

keep:        {replay: {data: general.txt, share: 0.3}, kl: 0.1, l2: 1e-3}    hold on while training
forget:      {on: general.txt, at_most: 5%}                                  a budget, looked at on the way
stop_early:  {on: dev.jsonl, patience: 3}                                    the best weights, not the last
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from posttrain.functional.divergence import Direction
from posttrain.functional.layout import Tree
from posttrain.models.policy import Policy
from posttrain.schema.settings import DatasetRef, Settings

from .anchors import Anchors
from .method import Loss, Objective
from .near import Near
from .source import FromRows, Replayed, Source
from .watch import Budget, Patience, Rule, Watch


def _share(value: Any) -> Any:
    """`5%` is 0.05."""
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    return value


INSTEAD = {
    "keep.kl": "leave it out, or hold its weights with `keep: {l2: 0.001}`",
    "keep.replay": "leave it out, and name general preferences beside the others in `data`",
    "forget": "leave it out, or keep the best weights with `stop_early: {on: held_out.jsonl}`",
}
"""What does for a reward model what an option does for others."""

Share = Annotated[float, BeforeValidator(_share), Field(gt=0)]


class Replay(Settings):
    """General rows in every batch, beside those of `data`."""

    data: DatasetRef
    """The rows to replay, of the same shape as those that are learnt; beside conversations, plain text will do."""
    share: float = Field(0.3, gt=0, lt=1)
    """Share of a batch's rows that are replayed; they come on top of `batch_size`."""


class Keep(Settings):
    """What holds on to what the model knew before the stage."""

    replay: Replay | None = None
    """General rows in every batch: the surest way where there are any."""
    kl: float = Field(0.0, ge=0)
    """Pull of what the model expects at every learnt token to what it expected before (KL divergence over the whole
    vocabulary); costs a second model, or none where an adapter is trained, and a third more time."""
    direction: Direction = "forward"
    """What `kl` measures: `forward` holds everything the model found likely before, `reverse` only keeps it from finding
    likely what it did not."""
    l2: float = Field(0.0, ge=0)
    """Pull of every weight to where it began (L2-SP); larger forgets less and learns less."""
    ewc: float = Field(0.0, ge=0)
    """The same pull in proportion to how much a weight matters to the rows of `replay` (EWC)."""
    zeros: bool = False
    """Leave weights of the layers that are zero as they are, so that a pruned model stays pruned."""

    @model_validator(mode="after")
    def _has_rows(self) -> "Keep":
        if self.ewc and self.replay is None:
            raise ValueError("`ewc` needs general rows to find the weights that matter: give `replay: {data: …}`")
        return self


class Forget(Settings):
    """A forgetting budget."""

    on: DatasetRef
    """General rows that are not trained on; their perplexity is watched."""
    at_most: Share = 0.05
    """How much their perplexity may rise, as a share of what it was, such as 5%."""
    every: int = Field(20, ge=1)
    """Steps from one look to the next; each reads all rows of `on` once."""
    then: Literal["back_off", "stop"] = "back_off"
    """Once it has risen further: go on from the last good weights, at half the rate and with more of what is replayed, or
    stop with them."""


class StopEarly(Settings):
    """Early stopping."""

    on: DatasetRef
    """Held-out rows of the same shape as those that are learnt; the loss on them is watched."""
    every: int = Field(20, ge=1)
    """Steps from one look to the next."""
    patience: int = Field(3, ge=1)
    """Looks without a lower loss after which training stops."""


class Guarding(Settings):
    """What is kept and what is watched while training."""

    keep: Keep = Keep()
    """What holds on to what the model knew before the stage."""
    forget: Forget | None = None
    """How much perplexity on general text may rise, as `{on: general.txt, at_most: 5%}`."""
    stop_early: StopEarly | None = None
    """Stop when held-out loss no longer falls and keep the best weights, as `{on: dev.jsonl, patience: 3}`."""

    @model_validator(mode="after")
    def _suits_what_is_trained(self) -> "Guarding":
        """A reward model writes nothing, so what is watched or held in what a model writes would hold nothing."""
        asked = {"keep.kl": self.keep.kl, "keep.replay": self.keep.replay, "forget": self.forget}
        if getattr(getattr(self, "objective", None), "scores", False):
            for option in (name for name, value in asked.items() if value):
                raise ValueError(
                    f"a reward model writes nothing, so `{option}` has no meaning for it: {INSTEAD[option]}"
                )
        return self

    def guarded(self, source: Source, replayed: Sequence[Tree], watch: Watch) -> Source:
        """The source, with what is replayed in every batch."""
        if self.keep.replay is None:
            return source
        assert isinstance(source, FromRows)
        return Replayed.beside(source, replayed, self.keep.replay.share, watch)

    def near(self, objective: Objective, start: Policy | None) -> Loss:
        """The objective, with the divergence from the start beside it."""
        return Near(objective, start, self.keep.kl, self.keep.direction) if self.keep.kl and start else objective

    def anchors(self, policy: Policy, replayed: Sequence[Tree], scratch: Path) -> Anchors:
        """What pulls the weights back; made before anything is trained."""
        return Anchors(policy, self.keep.l2, self.keep.ewc, replayed, scratch)

    def rules(
        self, general: Sequence[Tree], held_out: Sequence[Tree], learnt: Sequence[Tree], objective: Objective
    ) -> dict[str, Rule]:
        """The rules that watch, by the option they come from; the budget has the last word."""
        found: dict[str, Rule] = {}
        if self.forget is not None:
            found["forget"] = Budget(general, self.forget.at_most, self.forget.every, self.forget.then, learnt)
        if self.stop_early is not None:
            found["stop_early"] = Patience(held_out, objective, self.stop_early.every, self.stop_early.patience)
        return found
