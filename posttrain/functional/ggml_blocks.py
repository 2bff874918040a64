"""Blocks of 32 weights as llama.cpp stores them: a scale in half precision, perhaps a smallest value, and integers.

    type   bits   a weight is      integers     bytes of a block
    q8_0   8      d q              -127..127    2 + 32
    q4_0   4      d (q - 8)        0..15        2 + 16
    q4_1   4      d q + m          0..15        2 + 2 + 16
    q5_0   5      d (q - 16)       0..31        2 + 4 + 16
    q5_1   5      d q + m          0..31        2 + 2 + 4 + 16

Rounding and packing are two steps, so that integers which a solver has chosen are packed as they are
(https://github.com/ggml-org/ggml, ggml-quants.c). Shapes: weights and q (..., C), d and m (..., C / 32), a packed row
(..., C / 32 * bytes). The low halves of the first 16 integers share bytes with those of the last 16; a fifth bit stands
in four bytes of its own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BLOCK = 32


@dataclass(frozen=True)
class Grid:
    """What a block can hold. `zero` is the integer that stands for nothing where there is no smallest value."""

    bits: int
    zero: int = 0
    has_min: bool = False
    is_signed: bool = False

    @property
    def bytes(self) -> int:
        """Of a block."""
        return 2 + 2 * self.has_min + BLOCK * self.bits // 8


GRIDS = {
    "q8_0": Grid(8, is_signed=True),
    "q4_0": Grid(4, zero=8),
    "q4_1": Grid(4, has_min=True),
    "q5_0": Grid(5, zero=16),
    "q5_1": Grid(5, has_min=True),
}


def round_blocks(kind: str, weights: Array) -> tuple[Array, Array, Array | None]:
    """(q, d, m) of weights (..., C) by llama.cpp's own rounding, d and m in fp32: packed, they become its bytes."""
    grid = GRIDS[kind]
    x = np.ascontiguousarray(weights, dtype=np.float32).reshape(*weights.shape[:-1], -1, BLOCK)
    if grid.has_min:
        low = x.min(-1, keepdims=True)
        d = (x.max(-1, keepdims=True) - low) / np.float32((1 << grid.bits) - 1)
        q = np.trunc((x - low) * _inverse(d) + np.float32(0.5))
        return _flat(_limited(q, grid)), d[..., 0], low[..., 0]
    if grid.is_signed:
        d = np.abs(x).max(-1, keepdims=True) / np.float32(127)
        scaled = x * _inverse(d)
        size = np.abs(scaled)
        whole = np.floor(size)
        q = np.sign(scaled) * (whole + np.floor(2 * (size - whole)))  # halves away from zero, as C rounds
        return _flat(q.astype(np.int8)), d[..., 0], None
    largest = np.take_along_axis(x, np.abs(x).argmax(-1, keepdims=True), -1)
    d = largest / np.float32(-grid.zero)
    q = np.trunc(x * _inverse(d) + np.float32(grid.zero + 0.5))
    return _flat(_limited(q, grid)), d[..., 0], None


def pack_blocks(kind: str, q: Array, d: Array, m: Array | None = None) -> Array:
    """The bytes (..., C / 32 * bytes of a block) of integers q (..., C) with their scales and smallest values. Nothing is
    rounded but d and m, to half precision. Raises ValueError for integers that the type cannot hold."""
    grid = GRIDS[kind]
    least, most = (-128, 127) if grid.is_signed else (0, (1 << grid.bits) - 1)
    if q.size and not (least <= int(q.min()) and int(q.max()) <= most):
        raise ValueError(f"{kind} holds integers from {least} to {most}, not {int(q.min())} to {int(q.max())}")
    if grid.has_min != (m is not None):
        raise ValueError(f"{kind} {'needs' if grid.has_min else 'has no place for'} smallest values")
    n = d.shape
    parts = [_half(d)] + ([_half(m)] if m is not None else [])
    if grid.is_signed:
        parts.append(q.astype(np.int8).view(np.uint8).reshape(*n, BLOCK))
    else:
        u = q.astype(np.uint8).reshape(*n, 2, BLOCK // 2)
        if grid.bits == 5:
            parts.append(np.packbits(u.reshape(*n, BLOCK) >> 4, axis=-1, bitorder="little"))
        parts.append((u[..., 0, :] & 0x0F) | (u[..., 1, :] << np.uint8(4)))
    return np.concatenate(parts, -1).reshape(*n[:-1], -1)


def unpack_blocks(kind: str, packed: Array) -> tuple[Array, Array, Array | None]:
    """(q, d, m) of packed rows, d and m in half precision."""
    grid = GRIDS[kind]
    blocks = np.ascontiguousarray(packed, dtype=np.uint8).reshape(*packed.shape[:-1], -1, grid.bytes)
    d, rest = _scale(blocks[..., :2]), blocks[..., 2:]
    m = None
    if grid.has_min:
        m, rest = _scale(rest[..., :2]), rest[..., 2:]
    if grid.is_signed:
        return _flat(np.ascontiguousarray(rest).view(np.int8)), d, m
    low = rest[..., -BLOCK // 2 :]
    q = np.concatenate([low & 0x0F, low >> 4], -1)
    if grid.bits == 5:
        q |= np.unpackbits(rest[..., :4], axis=-1, bitorder="little") << np.uint8(4)
    return _flat(q), d, m


def blocks_as_weights(kind: str, q: Array, d: Array, m: Array | None = None) -> Array:
    """(..., C) in fp32: what llama.cpp computes with once the scales are in half precision."""
    scale = d.astype(np.float16).astype(np.float32)[..., None]
    x = (q.astype(np.float32) - GRIDS[kind].zero).reshape(*d.shape, BLOCK) * scale
    return _flat(x if m is None else x + m.astype(np.float16).astype(np.float32)[..., None])


def _inverse(d: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.where(d == 0, np.float32(0), np.float32(1) / d)


def _limited(q: Array, grid: Grid) -> Array:
    return q.astype(np.uint8).clip(0, (1 << grid.bits) - 1)


def _flat(blocks: Array) -> Array:
    return blocks.reshape(*blocks.shape[:-2], -1)


def _half(values: Array) -> Array:
    return np.ascontiguousarray(values, dtype=np.float16)[..., None].view(np.uint8)


def _scale(two_bytes: Array) -> Array:
    return np.ascontiguousarray(two_bytes).view(np.float16)[..., 0]
