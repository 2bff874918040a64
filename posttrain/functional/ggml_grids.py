"""The blocks of GGUF files as grids that a solver can round to: every number it finds is one that llama.cpp reads.

    q4_0   d q,  q in -8 ... 7        d = x / -8, x the weight of the block that is largest, with its sign
    q5_0   d q,  q in -16 ... 15      d = x / -16
    q8_0   d q,  q in -127 ... 127    d = max |x| / 127
    q4_1   d q + m,  q in 0 ... 15    m = min x,  d = (max x - m) / 15
    q5_1   d q + m,  q in 0 ... 31    m = min x,  d = (max x - m) / 31

d and m are in half precision. Stock files round each weight to nearest; weights that were solved for other grids, as those of GPTQ
checkpoints, lose what the solver won when they are rounded again. Shapes: R rows, K blocks of 32 columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .ggml_blocks import BLOCK, GRIDS, Array
from .rounding import Rounded


@dataclass(frozen=True)
class BlockGrid:
    """The numbers of a block type of llama.cpp."""

    kind: str

    @property
    def low(self) -> int:
        return -127 if GRIDS[self.kind].is_signed else -GRIDS[self.kind].zero

    @property
    def high(self) -> int:
        return 127 if GRIDS[self.kind].is_signed else self.low + (1 << GRIDS[self.kind].bits) - 1

    @property
    def group(self) -> int:
        return BLOCK

    def fit(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """(R, K, 32) -> d and m, (R, K) each, as half precision holds them; m is 0 where a block has none."""
        if GRIDS[self.kind].has_min:
            least, most = groups.amin(-1), groups.amax(-1)
            least = _half(least)
            return _scale((most - least) / (self.high - self.low)), least
        if GRIDS[self.kind].is_signed:
            scale = _scale(groups.abs().amax(-1) / self.high)
        else:
            largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))[..., 0]
            scale = _scale(largest / self.low)
        return scale, torch.zeros_like(scale)

    @property
    def offset_scales(self) -> bool:
        return False

    def rescaled(self, wanted: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        return _scale(wanted), offset


def blocks_of(kind: str, rounded: Rounded) -> tuple[Array, Array, Array | None]:
    """(q, d, m) of a matrix that was rounded to a `BlockGrid`, as `ggml_blocks.pack_blocks` takes them."""
    q = rounded.ints.cpu().numpy().astype("int16") + GRIDS[kind].zero
    return q, rounded.scale.cpu().numpy(), rounded.offset.cpu().numpy() if GRIDS[kind].has_min else None


def _half(x: Tensor) -> Tensor:
    return x.half().to(x.dtype)


def _scale(x: Tensor) -> Tensor:
    """As half precision holds it; 1 for a block of one number, whose integers are 0."""
    x = _half(x)
    return torch.where(x != 0, x, torch.ones_like(x))
