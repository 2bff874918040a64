"""What a compressed model lost, as far as a budget asks: nats at the tokens of rows put aside, and refusals that came or went.

The divergence is cheap and told of every model that is tried; prompts are answered by those alone that hold it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.data.chat import ChatFormat
from posttrain.functional.flips import refuses
from posttrain.models.policy import Policy
from posttrain.schema.rows import Prompt

from .answering import said_by
from .job import Job
from .sensitivity import Aside


@dataclass(frozen=True)
class Lost:
    """What a model lost, and whether that is within the limits; `flips` is None where prompts were not asked."""

    kl: float
    flips: float | None
    within: bool

    def __str__(self) -> str:
        return f"{self.kl:.2g} nats a token" + (
            f", with {self.flips:.1%} of refusals flipped" if self.flips is not None else ""
        )


@dataclass(frozen=True)
class Asked:
    """Prompts, and who answers them how: the same for the model and for all that is made of it."""

    rows: Sequence[Prompt]
    form: ChatFormat
    max_new_tokens: int
    job: Job

    def refusals(self, weights: Any) -> list[bool]:
        """Which of the prompts are declined."""
        policy = Policy(weights, self.form.tokenizer)
        said = said_by(policy, self.form, self.rows, self.job, self.max_new_tokens)
        return [refuses(each.text) for each in said]


@dataclass(frozen=True)
class Limits:
    """What may be lost at most; None for what does not matter. `refused` are the prompts that the model itself declines."""

    aside: Aside
    kl: float | None = None
    flips: float | None = None
    asked: Asked | None = None
    refused: Sequence[bool] = ()

    def __str__(self) -> str:
        nats = [] if self.kl is None else [f"{self.kl:g} nats a token"]
        return ", ".join(nats if self.flips is None else [*nats, f"{self.flips:.1%} of refusals flipped"])

    def lost(self, weights: Any) -> Lost:
        """What a model lost."""
        kl = self.aside.kl(weights)
        if self.kl is not None and not kl <= self.kl:
            return Lost(kl, None, False)
        if self.asked is None or self.flips is None:
            return Lost(kl, None, True)
        now = self.asked.refusals(weights)
        flips = sum(a != b for a, b in zip(self.refused, now, strict=True)) / len(now)
        return Lost(kl, flips, flips <= self.flips)
