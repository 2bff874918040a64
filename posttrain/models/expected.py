"""What a model expects at the trained tokens of a batch, before anything is asked of it: log-probabilities of the tokens
that came, or how far apart two models are over all that could have come.

Shapes: N trained tokens, D width, V vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from posttrain.functional.divergence import Head, Kind, plain_divergence, token_divergence
from posttrain.functional.logps import plain_logps, token_logps
from posttrain.functional.top_k import TopK, top_k
from posttrain.functional.uld import Groups, Merged, groups_apart


class Noted(NamedTuple):
    """The likeliest tokens that another model expected, of the first `rows` tokens of its head."""

    top: TopK
    rows: int


class Aligned(NamedTuple):
    """What a model of other tokens expects, and the groups of tokens that say the same, ours and its own; None where there
    are none."""

    expected: "Expected | None"
    ours: Groups
    theirs: Groups


class Expected(NamedTuple):
    """Hidden states with the head that reads them or, where a head is more than a matrix, logits (N, V); the tokens that
    came and the answers they belong to. `answers` has N entries; states and targets may have more, which mean nothing.
    `through` are the states behind every layer, where these were asked for."""

    before: Head | Tensor
    targets: Tensor
    answers: Tensor
    through: tuple[Tensor, ...] = ()

    def states(self) -> tuple[Tensor, ...]:
        """(N, D) for every layer: the states that the trained tokens are predicted from."""
        return tuple(layer[: len(self.answers)] for layer in self.through)

    def logps(self, temperature: float = 1.0) -> Tensor:
        """(N,): log-probability of each token that came, in nats, with logits divided by the temperature."""
        n, before = len(self.answers), tempered(self.before, temperature)
        if isinstance(before, Tensor):
            return plain_logps(before, self.targets)[:n]
        return token_logps(before.hidden, before.weight, self.targets, before.bias)[:n]

    def divergence(
        self, reference: "Expected | Noted | Aligned", kind: Kind = "forward", temperature: float = 1.0
    ) -> Tensor:
        """(N,): divergence between this and what another model expects at the same tokens, in nats, with the logits of
        both divided by the temperature; over the tokens that both have rows for, where one head has more. What was noted
        of another model is known at the temperature of then, and gives the forward one; one of other tokens gives the
        distance of ULD for each group, (G,), which is no number of nats."""
        n = len(self.answers)
        if isinstance(reference, Noted):
            return self._from_noted(reference, temperature)
        if isinstance(reference, Aligned):
            return self._from_aligned(reference, temperature)
        rows = min(n_rows(self.before), n_rows(reference.before))
        ours, theirs = (narrowed(tempered(x.before, temperature), rows) for x in (self, reference))
        if not isinstance(ours, Tensor) and not isinstance(theirs, Tensor):
            return token_divergence(ours, theirs, kind)[:n]
        q, p = (x[:n] if isinstance(x, Tensor) else x.part(slice(n)) for x in (ours, theirs))
        return plain_divergence(q, p, kind)

    def _from_noted(self, noted: "Noted", temperature: float) -> Tensor:
        n, ours = len(self.answers), narrowed(tempered(self.before, temperature), noted.rows)
        if isinstance(ours, Tensor):
            return plain_divergence(ours[:n], noted.top)
        return token_divergence(Head(ours.hidden[:n], *ours[1:]), noted.top)

    def _from_aligned(self, aligned: Aligned, temperature: float) -> Tensor:
        if aligned.expected is None:
            return self.logps()[:0]
        with torch.no_grad():
            theirs = aligned.expected.merged(aligned.theirs, temperature)
        return groups_apart(self.merged(aligned.ours, temperature), theirs)

    def merged(self, groups: Groups, temperature: float = 1.0) -> Merged:
        """What is expected at the ends of groups of tokens, and what was given to those before, by the chain rule."""
        before = self._at(groups.before).logps(temperature)
        start = before.new_zeros(len(groups.ends))
        return Merged(tempered(self._at(groups.ends).before, temperature), start.index_add(0, groups.of, before))

    def _at(self, places: Tensor) -> "Expected":
        """The same of some of the learnt tokens alone."""
        whole = self.before
        some = whole[places] if isinstance(whole, Tensor) else Head(whole.hidden[places], *whole[1:])
        return Expected(some, self.targets[places], self.answers[places])

    def top_k(self, k: int, rows: int, temperature: float = 1.0, chunk: int = 1024) -> TopK:
        """The `k` likeliest of the first `rows` tokens, with logits divided by the temperature, `chunk` places at a time."""
        before = narrowed(tempered(self.before, temperature), rows)
        parts = [top_k(z.float(), k) for z in self._logits(before, chunk)]
        return TopK(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def likeliest(self, chunk: int = 1024) -> Tensor:
        """(N,): the token that it holds for the likeliest, `chunk` tokens at a time."""
        found = [z.argmax(-1) for z in self._logits(self.before, chunk)]
        return torch.cat(found) if found else self.targets[:0]

    def _logits(self, before: Head | Tensor, chunk: int) -> Iterator[Tensor]:
        """Logits of `chunk` tokens after the other."""
        n = len(self.answers)
        for start in range(0, n, chunk):
            part = slice(start, min(start + chunk, n))
            yield before[part] if isinstance(before, Tensor) else before.part(part)


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
