"""GCG: a suffix behind the request, found by the gradient of the attacked model, after which it begins to comply.

Zou et al. 2023, "Greedy Coordinate Gradient" (arXiv 2307.15043). Each step takes, for every place i of the suffix, the tokens v of
which the gradient promises most, draws `candidates` changes of one token among these, computes their loss, and keeps the best:

    loss(suffix) = mean -log p(target | request suffix)        slope (n, V) = ∂ loss / ∂ one-hot(suffix)
    among the `top` smallest slope[i, v]:  suffix with v at i

The present suffix stays where no candidate is better, or where the text of the better ones is tokenised otherwise. The target is
the row's column `complied`, or an opening in the affirmative. Every few steps the model is asked. The search is no part of
the ledger: a run that goes on after a kill computes it again, to the same suffix on the same machine.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from posttrain.engine.attack import Attack, Goal, Scene, Tries, ask
from posttrain.schema.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from posttrain.models.suffix import Suffix


class GCG(Attack):
    """Search a suffix by the gradient of the attacked model."""

    opens: ClassVar[bool] = True

    steps: int = Field(100, ge=1)
    """How many steps the search takes."""
    every: int = Field(25, ge=1)
    """After how many steps the model is asked with the suffix so far."""
    length: int = Field(12, ge=1)
    """How many signs the suffix begins with."""
    candidates: int = Field(64, ge=1)
    """How many changes of one token are computed in a step."""
    top: int = Field(64, ge=1)
    """Of how many tokens at each place a change is drawn."""
    target: str = "complied"
    """The column of a row with the text that the answer is to begin with."""
    opening: str = Field("Sure, here is how", min_length=1)
    """What the answer is to begin with where a row has no such column."""
    ascii_only: bool = True
    """Whether the suffix is made of ASCII alone, as a user could type it."""

    def tries(self, goal: Goal, scene: Scene) -> Tries:
        if scene.weights is None:
            raise UsageError("The attack 'gcg' needs the weights of the attacked model. Leave out `target`.")
        from posttrain.models.suffix import Suffix

        target = str(goal.row.columns.get(self.target) or self.opening)
        suffix = Suffix(scene.weights, goal.put, goal.request, target, self.length)
        if not suffix.fits:
            return
        if "allowed" not in scene.shared:
            scene.shared["allowed"] = suffix.allowed(self.ascii_only)
        found = Found(suffix.start, float(suffix.losses([suffix.start])[0]))
        for step in range(1, self.steps + 1):
            found = self.better(suffix, found, scene.shared["allowed"], scene.draw)
            if step % self.every == 0 or step == self.steps:
                heard = yield from ask(goal.put(suffix.text(found.tokens)))
                if heard.verdict == "complied":
                    return

    def better(self, suffix: "Suffix", found: "Found", allowed: "Tensor", draw: random.Random) -> "Found":
        """The suffix after one step."""
        slope = suffix.slope(found.tokens).masked_fill(~allowed, float("inf"))
        top = min(self.top, int(allowed.sum()))
        best = slope.topk(top, dim=1, largest=False).indices.tolist()
        drawn = [_changed(found.tokens, best, draw) for _ in range(self.candidates)]
        tried = [tokens for tokens in dict.fromkeys(map(tuple, drawn)) if tokens != tuple(found.tokens)]
        losses = suffix.losses(tried).tolist() if tried else []
        for loss, tokens in sorted(zip(losses, tried, strict=True)):
            if loss >= found.loss:
                break
            if suffix.is_read_back(tokens):
                return Found(list(tokens), loss)
        return found


@dataclass(frozen=True)
class Found:
    """A suffix and its loss."""

    tokens: list[int]
    loss: float


def _changed(tokens: list[int], best: list[list[int]], draw: random.Random) -> list[int]:
    """With another token at one place."""
    place = draw.randrange(len(tokens))
    return [*tokens[:place], draw.choice(best[place]), *tokens[place + 1 :]]
