"""What a model expects at the trained tokens of a batch, before anything is asked of it: log-probabilities of the tokens
that came, or how far apart two models are over all that could have come.

Shapes: N trained tokens, D width, V vocabulary.
"""

from typing import NamedTuple

from torch import Tensor

from posttrain.functional.divergence import Direction, Head, plain_divergence, token_divergence
from posttrain.functional.logps import plain_logps, token_logps


class Expected(NamedTuple):
    """Hidden states with the head that reads them or, where a head is more than a matrix, logits (N, V); the tokens that
    came and the answers they belong to. `answers` has N entries; states and targets may have more, which mean nothing."""

    before: Head | Tensor
    targets: Tensor
    answers: Tensor

    def logps(self, temperature: float = 1.0) -> Tensor:
        """(N,): log-probability of each token that came, in nats, with logits divided by the temperature."""
        n = len(self.answers)
        if isinstance(self.before, Tensor):
            return plain_logps(self.before / temperature, self.targets)[:n]
        hidden, weight, bias = self.before
        if temperature != 1:  # (h W^T + b) / t
            hidden, bias = hidden / temperature, None if bias is None else bias / temperature
        return token_logps(hidden, weight, self.targets, bias)[:n]

    def divergence(self, reference: "Expected", direction: Direction) -> Tensor:
        """(N,): KL divergence between this and what another model expects at the same tokens, in nats."""
        n = len(self.answers)
        ours, theirs = self.before, reference.before
        if not isinstance(ours, Tensor) and not isinstance(theirs, Tensor):
            return token_divergence(ours, theirs, direction)[:n]
        q, p = (x[:n] if isinstance(x, Tensor) else x.part(slice(n)) for x in (ours, theirs))
        return plain_divergence(q, p, direction)
