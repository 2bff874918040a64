"""Integers that were solved for, gone over again: each for what all others are by now, then the scales for the integers.

    q_i  <-  round(q_i + (D G)_i / (s G_ii))        D = W - (s q + o), one column after another
    s_k  <-  s_k + u^T (D G)_k / (u^T G_kk u)                   u the integers of group k, less their zero

GPTQ (`functional/rounding.py`) decides every column once, before it knows how those behind it will fall. Each step here lowers
tr(D G D^T) with all else as it is, as QuantEase does (Behdin et al. 2023, arXiv 2309.01885); the scales are least squares.

Shapes: R rows, C columns, K groups. Within, matrices stand transposed, (C, R), in the order in which columns are gone over.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .rounding import Grid, Rounded, column_blocks, damped

SWEEPS = 2  # over the integers, before the scales are fitted to them


def polished(weight: Tensor, gram: Tensor, rounded: Rounded, grid: Grid, damp: float, rounds: int) -> Rounded:
    """A rounding of a matrix (R, C) that is no worse by G (C, C), damped by a share `damp` of the mean of its diagonal, after
    some rounds of `SWEEPS` over all integers and one over the scales, and a last sweep."""
    if not rounds:
        return rounded
    going = _begun(weight, damped(gram, damp), rounded, grid)
    for _ in range(rounds):
        for _ in range(SWEEPS):
            going.sweep()
        going.rescale()
    going.sweep()
    return going.rounded()


def _begun(weight: Tensor, gram: Tensor, rounded: Rounded, grid: Grid) -> "_Polishing":
    order = gram.diagonal().argsort(descending=True, stable=True)
    gram = gram[order][:, order]
    return _Polishing(
        grid,
        order,
        gram,
        order // (grid.group or len(order)),
        gram @ (weight - rounded.dense()).t()[order].contiguous(),
        rounded.ints.t()[order].to(weight.dtype).contiguous(),
        rounded.scale.t().clone(),
        rounded.offset.t().clone(),
    )


@dataclass
class _Polishing:
    """A rounding on its way. `of` is the group of each column, `apart` is G D^T, `q` the integers, `scale` and `offset` are (K, R)."""

    grid: Grid
    order: Tensor
    gram: Tensor
    of: Tensor
    apart: Tensor
    q: Tensor
    scale: Tensor
    offset: Tensor

    def sweep(self) -> None:
        """Every column once."""
        scale, grid = self.scale[self.of], self.grid
        for start, end in column_blocks(len(self.q)):
            own, apart = self.gram[start:end, start:end], self.apart[start:end]
            changes = torch.empty_like(apart)
            for i in range(end - start):
                q, s = self.q[start + i], scale[start + i]
                wanted = apart[i].div(own[i, i] * s).add_(q).round_().clamp_(grid.low, grid.high)
                changes[i] = (q - wanted) * s
                self.q[start + i] = wanted
                apart.addr_(own[i], changes[i])
            self.apart[:start].addmm_(self.gram[:start, start:end], changes)
            self.apart[end:].addmm_(self.gram[end:, start:end], changes)

    def rescale(self) -> None:
        """Every scale once."""
        for k in range(len(self.scale)):
            at = (self.of == k).nonzero()[:, 0]
            zero = self.offset[k] / self.scale[k] if self.grid.offset_scales else 0
            steps = self.q[at] + zero
            size = ((self.gram[at][:, at] @ steps) * steps).sum(0)
            more = (self.apart[at] * steps).sum(0) / size
            before = self.scale[k]
            wanted = torch.where(size > 0, before + more, before)
            scale, offset = self.grid.rescaled(wanted, before, self.offset[k])
            if scale is not before:  # scales that depend on others stay as they are
                self.apart.addmm_(self.gram[:, at], steps * (before - scale))
                self.scale[k], self.offset[k] = scale, offset

    def rounded(self) -> Rounded:
        ints = torch.empty_like(self.q, dtype=torch.int8)
        ints[self.order] = self.q.to(torch.int8)
        return Rounded(ints.t().contiguous(), self.scale.t().contiguous(), self.offset.t().contiguous())
