"""How far the hidden states of a student are from its teacher's, layer by layer.

    d = 1/S  sum over its layers s of  | h_s / |h_s|  -  g_t / |g_t| |^2  =  2/S  sum of  1 - cos(h_s, g_t)

    t = round(s T / S), so that the last layers meet and the others are paired evenly; half goes up

Patient knowledge distillation (Sun et al. 2019, arXiv 1908.09355) compares directions, as the length of a state is the
next norm's to take away: d is between 0 and 4 for any model. Where widths differ, a learnt map W_s carries h_s to the width
of g_t first (TinyBERT, Jiao et al. 2020, arXiv 1909.10351). Shapes: N tokens, S and T layers, D and E wide.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def paired(n_ours: int, n_theirs: int) -> list[int]:
    """The teacher's layer that each of the student's meets, counted from 0.

    >>> paired(2, 4), paired(4, 6), paired(3, 3)
    ([1, 3], [1, 2, 4, 5], [0, 1, 2])
    """
    return [max(int(s * n_theirs / n_ours + 0.5), 1) - 1 for s in range(1, n_ours + 1)]


def states_apart(ours: Sequence[Tensor], theirs: Sequence[Tensor], maps: Sequence[Tensor] = ()) -> Tensor:
    """(N,): the mean over the student's layers; `ours` are S states (N, D), `theirs` T of (N, E), `maps` S of (E, D) or
    none."""
    partners = [theirs[t] for t in paired(len(ours), len(theirs))]
    carried = [h.float() @ w.t() for h, w in zip(ours, maps, strict=True)] if maps else ours
    distances = (
        (F.normalize(h.float(), dim=-1) - F.normalize(g.float(), dim=-1)).square().sum(-1)
        for h, g in zip(carried, partners, strict=True)
    )
    return torch.stack(list(distances)).mean(0)


def least_squares(ours: Tensor, theirs: Tensor, damp: float = 1e-3) -> Tensor:
    """(E, D): the map that carries states (N, D) to others (N, E) with the least squares between their directions, held to
    zero where there is nothing to learn from."""
    h, g = (F.normalize(x.double(), dim=-1) for x in (ours, theirs))
    gram = h.t() @ h
    gram.diagonal().add_(damp * gram.diagonal().mean())
    solved: Tensor = (h.t() @ g).t() @ gram.inverse()
    return solved.float()
