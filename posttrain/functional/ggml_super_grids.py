"""Super-blocks of GGUF files as grids: scales are looked for so that what is stored, and not what is wished for, is close.

    min over d, e, s, m of  sum of w (x - (d s q - e m))^2          q the nearest integers; `ggml_super_blocks` for the rest

w says how much a column matters, such as how large its inputs are. First each block by itself: from some ranges follow integers,
from these scale and offset by least squares, and integers again. Then they become whole steps s and m of a super-block's d and e,
of which the neighbours are tried as well; d and e follow from the integers by least squares. What was closest is kept.

Shapes: R rows, K blocks of B columns, J super-blocks of S blocks; scales and offsets (R, K) or (R, J, S), d and e (R, J, 1).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .ggml_blocks import Array
from .ggml_super_blocks import COARSE, SUPER_GRIDS, SuperGrid
from .rounding import Rounded, nearest

WIDEST, NARROWEST, RANGES = 1.08, 0.85, 12  # of a block's own range, that are tried
ROUNDS = 2  # of integers and least squares in turn
NEIGHBOURS = (-1, 0, 1)
AT_ONCE = 1 << 17  # weights
TINY = 1e-30
EVEN = 1e-9  # of a determinant: less is no spread at all

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class SuperBlockGrid:
    """The numbers of a super-block type of llama.cpp."""

    kind: str

    @property
    def of(self) -> SuperGrid:
        return SUPER_GRIDS[self.kind]

    @property
    def low(self) -> int:
        return -self.of.zero

    @property
    def high(self) -> int:
        return self.low + (1 << self.of.bits) - 1

    @property
    def group(self) -> int:
        return self.of.block

    @property
    def offset_scales(self) -> bool:
        return False

    def rescaled(self, wanted: Tensor, scale: Tensor, offset: Tensor) -> Pair:
        """Those that there are: a scale is a whole number of steps that others share."""
        return scale, offset

    def fit(self, groups: Tensor) -> Pair:
        return self.search(groups, torch.ones_like(groups[0]))

    def search(self, groups: Tensor, matters: Tensor) -> Pair:
        """(R, K, B) -> scales and offsets, (R, K) each, as they are stored; `matters` is (K, B)."""
        blocks, columns = groups.shape[1:]
        shape = (-1, blocks // self.of.blocks, self.of.blocks, columns)
        weights = (matters / matters.mean().clamp(min=TINY)).reshape(shape)
        rows = max(1, AT_ONCE // (blocks * columns))
        parts = [self._stored(part.reshape(shape), weights) for part in groups.split(rows)]
        scale, offset = (torch.cat(each).reshape(-1, blocks) for each in zip(*parts, strict=True))
        return scale, offset

    def _stored(self, x: Tensor, w: Tensor) -> Pair:
        """(R, J, S, B) -> scales and offsets as they are stored, (R, J, S)."""
        best = _Closest(self, x, w, together=True)
        wished = self._wished(x, w)
        largest, lowest = (size.amax(-1, keepdim=True) for size in _sizes(wished))
        steps = _half(largest / self.of.most), _half(lowest / self.of.most)
        for _ in range(ROUNDS):
            whole = self._whole(x, w, wished, steps)
            for _ in range(ROUNDS):
                q = best.see(*_products(whole, steps))
                steps = _steps(x, w, q, whole, steps)
            q = best.see(*_products(whole, steps))
            wished = self._solved(x, w, q, _products(whole, steps))
        return best.scale, best.offset

    def _wished(self, x: Tensor, w: Tensor) -> Pair:
        """The scale and the offset that each block would have if they were stored exactly, (R, J, S)."""
        best = _Closest(self, x, w)
        for pair in self._ranges(x):
            tried = pair
            for _ in range(ROUNDS):
                tried = self._solved(x, w, self.nearest(x, *tried), tried)
            best.see(*tried)
        return best.scale, best.offset

    def _ranges(self, x: Tensor) -> Iterator[Pair]:
        least, most = x.amin(-1).clamp(max=0), x.amax(-1)
        largest = x.gather(-1, x.abs().argmax(-1, keepdim=True))[..., 0]
        for share in torch.linspace(WIDEST, NARROWEST, RANGES).tolist():
            if self.of.has_min:
                yield _coarse(share * (most - least) / (self.high - self.low)), share * least
            else:
                yield _coarse(share * largest / self.low), torch.zeros_like(largest)

    def nearest(self, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """The integers of blocks, (..., B)."""
        return ((x - offset[..., None]) / scale[..., None]).round_().clamp_(self.low, self.high)

    def _solved(self, x: Tensor, w: Tensor, q: Tensor, before: Pair) -> Pair:
        """Scale and offset of each block by least squares for its integers; those `before` where these say nothing."""
        wq, qq, qx = w * q, (w * q * q).sum(-1), (w * q * x).sum(-1)
        alone = torch.where(qq > 0, qx / qq.clamp(min=TINY), before[0])
        if not self.of.has_min:
            return _coarse(alone), before[1]
        ww, wx, wq = w.sum(-1), (w * x).sum(-1), wq.sum(-1)
        scale, offset, known = _two(qq, wq, ww, qx, wx)
        positive = offset > 0  # there is no place for it
        scale, offset = torch.where(positive, alone, scale), torch.where(positive, 0, offset)
        known &= scale > 0
        left = ((wx - before[0] * wq) / ww.clamp(min=TINY)).clamp(max=0)
        return torch.where(known, scale, before[0]), torch.where(known, offset, left)

    def _whole(self, x: Tensor, w: Tensor, wished: Pair, steps: Pair) -> Pair:
        """(s, m): how many steps scale and offset of each block are, (R, J, S), the closest of some. The largest are the most
        that there are, whatever half precision made of a step, so that the steps can be told from the products."""
        most, scale, sizes = self.of.most, wished[0], _sizes(wished)
        most_below = most if self.of.has_min else 0
        top = [size >= size.amax(-1, keepdim=True) for size in sizes]
        first = [(size / step.clamp(min=TINY)).round_() for size, step in zip(sizes, steps, strict=True)]
        least: Tensor | None = None
        best = torch.zeros_like(scale), torch.zeros_like(scale)
        for more in NEIGHBOURS:
            s = torch.where(top[0], most, (first[0] + more).clamp(1, most)) * torch.where(scale < 0, -1, 1)
            for lower in NEIGHBOURS if self.of.has_min else (0,):
                m = torch.where(top[1], most_below, (first[1] + lower).clamp(0, most))
                stored = _products((s, m), steps)
                error = _error(x, w, self.nearest(x, *stored), *stored)
                better = error < least if least is not None else torch.ones_like(error, dtype=torch.bool)
                least = error if least is None else torch.where(better, error, least)
                best = torch.where(better, s, best[0]), torch.where(better, m, best[1])
        return best


class _Closest:
    """Of scales and offsets that were seen those with the least error, for each block or each super-block `together`."""

    def __init__(self, grid: SuperBlockGrid, x: Tensor, w: Tensor, together: bool = False):
        self.grid, self.x, self.w, self.together = grid, x, w, together
        self.scale, self.offset = torch.ones_like(x[..., 0]), torch.zeros_like(x[..., 0])
        self.least = torch.full_like(self.scale, torch.inf)

    def see(self, scale: Tensor, offset: Tensor) -> Tensor:
        """Their integers, (..., B)."""
        q = self.grid.nearest(self.x, scale, offset)
        error = _error(self.x, self.w, q, scale, offset)
        if self.together:
            error = error.sum(-1, keepdim=True).expand_as(scale)
        better = error < self.least
        self.least = torch.where(better, error, self.least)
        self.scale, self.offset = torch.where(better, scale, self.scale), torch.where(better, offset, self.offset)
        return q


def _error(x: Tensor, w: Tensor, q: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """(R, J, S): the weighted squared error of each block."""
    return (q * scale[..., None] + offset[..., None]).sub_(x).square_().mul_(w).sum(-1)


def _steps(x: Tensor, w: Tensor, q: Tensor, whole: Pair, before: Pair) -> Pair:
    """d and e, (R, J, 1), by least squares for integers q (R, J, S, B); those `before` where these say nothing."""
    a, b = whole[0][..., None] * q, -whole[1][..., None].expand_as(q)
    aa, ab, bb, ax, bx = ((w * y).sum((-1, -2))[..., None] for y in (a * a, a * b, b * b, a * x, b * x))
    d, e, known = _two(aa, ab, bb, ax, bx)
    d = torch.where(known, d, ax / aa.clamp(min=TINY))
    e = torch.where(known, e, (bx - before[0] * ab) / bb.clamp(min=TINY))
    return torch.where(d > 0, _half(d), before[0]), torch.where(e > 0, _half(e), before[1])


def _two(aa: Tensor, ab: Tensor, bb: Tensor, ax: Tensor, bx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two numbers that make u a + v b closest to x, from the sums of products, and where they can be known."""
    determinant = aa * bb - ab * ab
    known = determinant > EVEN * aa * bb
    safe = torch.where(known, determinant, 1)
    return (bb * ax - ab * bx) / safe, (aa * bx - ab * ax) / safe, known


def _products(whole: Pair, steps: Pair) -> Pair:
    """Scales and offsets of so many steps, exact in single precision."""
    return _coarse(whole[0] * steps[0]), -whole[1] * steps[1]


def _sizes(pair: Pair) -> Pair:
    """Of scales, 0 where there is none, and of offsets."""
    size = pair[0].abs()
    return torch.where(size >= float(COARSE), 0, size), -pair[1]


def _half(x: Tensor) -> Tensor:
    return x.half().to(x.dtype)


def _coarse(x: Tensor) -> Tensor:
    """Scales that can be divided by: where there is none, every integer is 0."""
    return torch.where(x == 0, float(COARSE), x)


def super_blocks_of(kind: str, rounded: Rounded) -> tuple[Array, Array, Array | None]:
    """(q, scales, offsets) of a matrix that was rounded to a `SuperBlockGrid`, as `pack_super_blocks` takes them."""
    grid = SUPER_GRIDS[kind]
    q = rounded.ints.cpu().numpy().astype("int16") + grid.zero
    return q, rounded.scale.cpu().numpy(), rounded.offset.cpu().numpy() if grid.has_min else None


def round_super_blocks(kind: str, weights: Array, matters: Array | None = None) -> tuple[Array, Array, Array | None]:
    """The same of a matrix (R, C) or several (E, R, C), every weight to the nearest number of the closest super-block; `matters`
    is what columns are worth, (C,) or (E, C)."""
    grid, x = SuperBlockGrid(kind), torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32))
    if x.dim() > 2:
        each = matters if matters is not None else [None] * len(weights)
        parts = [round_super_blocks(kind, *pair) for pair in zip(weights, each, strict=True)]
        offsets = [one[2] for one in parts if one[2] is not None]
        q, scale = np.stack([one[0] for one in parts]), np.stack([one[1] for one in parts])
        return q, scale, np.stack(offsets) if offsets else None
    groups = x.reshape(len(x), -1, grid.group)
    worth = (
        torch.ones(groups.shape[1:]) if matters is None else torch.from_numpy(matters).float().reshape(groups.shape[1:])
    )
    return super_blocks_of(kind, nearest(x, grid, grid.search(groups, worth)))
