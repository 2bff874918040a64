"""What a model expects at the trained tokens of a batch, before anything is asked of it: log-probabilities of the tokens
that came, or how far apart two models are over all that could have come.

Shapes: N trained tokens, D width, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from posttrain.functional.divergence import Head, Kind, plain_divergence, token_divergence
from posttrain.functional.logps import plain_logps, token_logps


class Expected(NamedTuple):
    """Hidden states with the head that reads them or, where a head is more than a matrix, logits (N, V); the tokens that
    came and the answers they belong to. `answers` has N entries; states and targets may have more, which mean nothing."""

    before: Head | Tensor
    targets: Tensor
    answers: Tensor

    def logps(self, temperature: float = 1.0) -> Tensor:
        """(N,): log-probability of each token that came, in nats, with logits divided by the temperature."""
        n, before = len(self.answers), tempered(self.before, temperature)
        if isinstance(before, Tensor):
            return plain_logps(before, self.targets)[:n]
        return token_logps(before.hidden, before.weight, self.targets, before.bias)[:n]

    def divergence(self, reference: "Expected", kind: Kind = "forward", temperature: float = 1.0) -> Tensor:
        """(N,): divergence between this and what another model expects at the same tokens, in nats, with the logits of
        both divided by the temperature; over the tokens that both have rows for, where one head has more."""
        n = len(self.answers)
        rows = min(n_rows(self.before), n_rows(reference.before))
        ours, theirs = (narrowed(tempered(x.before, temperature), rows) for x in (self, reference))
        if not isinstance(ours, Tensor) and not isinstance(theirs, Tensor):
            return token_divergence(ours, theirs, kind)[:n]
        q, p = (x[:n] if isinstance(x, Tensor) else x.part(slice(n)) for x in (ours, theirs))
        return plain_divergence(q, p, kind)

    def likeliest(self, chunk: int = 1024) -> Tensor:
        """(N,): the token that it holds for the likeliest, `chunk` tokens at a time."""
        n, z = len(self.answers), self.before
        parts = (slice(start, min(start + chunk, n)) for start in range(0, n, chunk))
        logits = (z[part] if isinstance(z, Tensor) else z.part(part) for part in parts)
        return torch.cat([x.argmax(-1) for x in logits]) if n else self.targets[:0]


def tempered(before: Head | Tensor, temperature: float) -> Head | Tensor:
    """What makes logits that are divided by the temperature: (h W^T + b) / t."""
    if temperature == 1:
        return before
    if isinstance(before, Tensor):
        return before / temperature
    hidden, weight, bias = before
    return Head(hidden / temperature, weight, None if bias is None else bias / temperature)


def n_rows(before: Head | Tensor) -> int:
    """How many tokens have a logit."""
    return before.shape[-1] if isinstance(before, Tensor) else len(before.weight)


def narrowed(before: Head | Tensor, rows: int) -> Head | Tensor:
    """What makes the logits of the first tokens alone. Heads are often padded to a round number of rows, which no text
    ever asks for, and each size of a model to another one."""
    if n_rows(before) == rows:
        return before
    if isinstance(before, Tensor):
        return before[:, :rows]
    hidden, weight, bias = before
    return Head(hidden, weight[:rows], None if bias is None else bias[:rows])
