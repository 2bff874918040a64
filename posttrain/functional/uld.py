"""The distance between two models that know other tokens: Universal Logit Distillation (Boizard et al. 2024, arXiv
2402.12030).

    D = sum_i | q_(i) - p_(i) |,      q_(1) >= q_(2) >= ..., the shorter of the two filled up with zeros

Whichever tokens the two find likely, they are to be as sure as each other: the likeliest of both as likely, the second
likeliest as well. It is the Wasserstein distance between the two if any token costs as much as any other to become another.

The models are compared where their tokens end at the same letter (posttrain.data.alignment). A group of several tokens is
one by the chain rule, as in GOLD (Patino et al. 2025, Hugging Face): what a model expects at its last token, times
what it gave to those before, so that both speak of the same letters:

    q(v | x) = q(y_1 | x) ... q(y_{m-1} | x, y_1 .. y_{m-2})  q(v | x, y_1 .. y_{m-1})

Shapes: G groups, M tokens within groups before their last, V and W vocabularies. Groups go through both heads in chunks
that are computed again in the backward pass, so that (G, V) never exists.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .divergence import Head
from .logps import CHUNK_ELEMENTS, CHUNK_ELEMENTS_ON_CPU, SHORTEST_CHUNK


class Groups(NamedTuple):
    """Where groups of tokens end, (G,), and the tokens before, (M,), with the group of each, (M,); all by their places
    among the learnt tokens."""

    ends: Tensor
    before: Tensor
    of: Tensor

    @classmethod
    def of_spans(cls, first: Tensor, last: Tensor) -> "Groups":
        """Groups from their first and last tokens, (G,) each."""
        sizes = last - first
        of = torch.arange(len(first), device=first.device).repeat_interleave(sizes)
        within = torch.arange(int(sizes.sum()), device=first.device) - (sizes.cumsum(0) - sizes)[of]
        return cls(last, first[of] + within, of)


class Merged(NamedTuple):
    """What a model expects at the ends of groups: a head or logits (G, V), and the log-probability of what stands before in
    each group, (G,)."""

    at_end: Head | Tensor
    before: Tensor

    def part(self, of: slice) -> Tensor:
        """(g, V): probabilities of some groups, which sum to what was given to the tokens before."""
        z = self.at_end[of] if isinstance(self.at_end, Tensor) else self.at_end.part(of)
        wide = z if z.dtype == torch.float64 else z.float()
        return (wide.log_softmax(-1) + self.before[of, None]).exp()


def sorted_apart(q_gV: Tensor, p_gW: Tensor) -> Tensor:
    """(g,): the distance of probabilities, by the definition."""
    wide = max(q_gV.shape[-1], p_gW.shape[-1])
    q, p = (F.pad(x.sort(-1, descending=True).values, (0, wide - x.shape[-1])) for x in (q_gV, p_gW))
    return (q - p).abs().sum(-1)


def groups_apart(ours: Merged, theirs: Merged, chunk: int | None = None) -> Tensor:
    """(G,): the distance at the end of every group, at least fp32. Differentiable in `ours`."""
    n = len(ours.before)
    wide = ours.at_end.shape[-1] if isinstance(ours.at_end, Tensor) else len(ours.at_end.weight)
    elements = CHUNK_ELEMENTS_ON_CPU if ours.before.device.type == "cpu" else CHUNK_ELEMENTS
    chunk = chunk or max(SHORTEST_CHUNK, elements // wide)

    def apart(of: slice) -> Tensor:
        with torch.no_grad():
            p = theirs.part(of)
        return sorted_apart(ours.part(of), p)

    parts = [
        checkpoint(apart, slice(start, start + chunk), use_reentrant=False, preserve_rng_state=False)
        for start in range(0, n, chunk)
    ]
    return torch.cat(parts) if parts else ours.before
