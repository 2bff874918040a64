"""Super-blocks of 256 weights as llama.cpp stores them: the scales of small blocks are integers themselves.

    type   bits   blocks    a weight is           scales and smallest values    bytes of a super-block
    q4_k   4      8 of 32   d s q - e m           s, m in 0..63                 2 + 2 + 12 + 128
    q5_k   5      8 of 32   d s q - e m           s, m in 0..63                 2 + 2 + 12 + 32 + 128
    q6_k   6      16 of 16  d s (q - 32)          s in -128..127                128 + 64 + 16 + 2

d and e are in half precision, one of each in a super-block (https://github.com/ggml-org/ggml, ggml-common.h). Here a matrix is what
a solver knows of it: integers q, and of each block the scale d s and the offset -e m, as they are once they are stored. The largest
s and m of a super-block are the largest that there are, so that d and e are found again in the products, exactly.

Shapes: q (..., C); scales and offsets (..., C / 32 or C / 16); d and e (..., C / 256); a packed row (..., C / 256 * bytes).
"""

from dataclasses import dataclass

import numpy as np

from .ggml_blocks import Array

SUPER = 256
COARSE = np.float32(1e30)  # the scale of a super-block without one: whatever is divided by it is 0


@dataclass(frozen=True)
class SuperGrid:
    """What a super-block can hold. `zero` is the integer that stands for nothing where there is no smallest value."""

    bits: int
    block: int
    most: int
    has_min: bool = True
    zero: int = 0

    @property
    def blocks(self) -> int:
        """In a super-block."""
        return SUPER // self.block

    @property
    def bytes(self) -> int:
        """Of a super-block."""
        scales = 2 + 12 if self.has_min else self.blocks
        return 2 + scales + SUPER * self.bits // 8


SUPER_GRIDS = {
    "q4_k": SuperGrid(4, 32, most=63),
    "q5_k": SuperGrid(5, 32, most=63),
    "q6_k": SuperGrid(6, 16, most=127, has_min=False, zero=32),
}


def factors(scale: Array, blocks: int, most: int) -> tuple[Array, Array]:
    """d in half precision and the integers of products (..., K), of which the largest in size is `most`: (..., K / blocks) and
    (..., K / blocks, blocks). Raises ValueError for products of which that is not true."""
    of = np.asarray(scale, dtype=np.float32).reshape(*scale.shape[:-1], -1, blocks)
    of = np.where(np.abs(of) >= COARSE, np.float32(0), of)
    d = np.abs(of).max(-1) / np.float32(most)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        whole = np.rint(np.where(d[..., None] > 0, of / d[..., None], np.float32(0)))
        half = d.astype(np.float16)
    if not (np.array_equal(half.astype(np.float32), d) and np.array_equal(whole * d[..., None], of)):
        raise ValueError("scales of a super-block are a number in half precision times whole ones, and these are not")
    return half, whole.astype(np.int16)


def pack_super_blocks(kind: str, q: Array, scale: Array, offset: Array | None = None) -> Array:
    """The bytes (..., C / 256 * bytes of a super-block) of integers q (..., C), with the scale and the offset of each block.
    Nothing is rounded. Raises ValueError for what the type cannot hold."""
    grid = SUPER_GRIDS[kind]
    most = (1 << grid.bits) - 1
    if q.size and not (int(q.min()) >= 0 and int(q.max()) <= most):
        raise ValueError(f"{kind} holds integers from 0 to {most}, not {int(q.min())} to {int(q.max())}")
    if grid.has_min != (offset is not None):
        raise ValueError(f"{kind} {'needs' if grid.has_min else 'has no place for'} offsets")
    d, s = factors(scale, grid.blocks, grid.most)
    u = q.astype(np.uint8).reshape(*d.shape, SUPER)
    if offset is None:
        parts = [*_six_bits(u), s.astype(np.int8).view(np.uint8), _bytes(d)]
    else:
        e, m = factors(-np.asarray(offset, dtype=np.float32), grid.blocks, grid.most)
        parts = [_bytes(d), _bytes(e), _pack_scales(s, m), *(_fifth_bit(u) if grid.bits == 5 else ()), _nibbles(u, 32)]
    return np.concatenate(parts, -1).reshape(*q.shape[:-1], -1)


def unpack_super_blocks(kind: str, packed: Array) -> tuple[Array, Array, Array | None]:
    """(q, scales, offsets) of packed rows, as `pack_super_blocks` takes them; scales of 0 stay 0."""
    grid = SUPER_GRIDS[kind]
    of = np.ascontiguousarray(packed, dtype=np.uint8).reshape(*packed.shape[:-1], -1, grid.bytes)
    if not grid.has_min:
        low, high = _from_nibbles(of[..., :128], 64), of[..., 128:192].reshape(*of.shape[:-1], 2, 1, 32)
        top = (high >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]) & 3  # (..., 2, 4, 32)
        q = low | top.reshape(low.shape) << np.uint8(4)
        s = np.ascontiguousarray(of[..., 192:208]).view(np.int8)
        return _flat(q), _flat(_half(of[..., 208:]) * s.astype(np.float32)), None
    s, m = _unpack_scales(of[..., 4:16])
    q = _from_nibbles(of[..., -128:], 32)
    if grid.bits == 5:
        high = of[..., 16:48]
        q = q | ((high[..., None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & 1).reshape(q.shape) << np.uint8(4)
    return _flat(q), _flat(_half(of[..., :2]) * s), _flat(-(_half(of[..., 2:4]) * m))


def super_blocks_as_weights(kind: str, q: Array, scale: Array, offset: Array | None = None) -> Array:
    """(..., C) in fp32: what llama.cpp computes with."""
    grid = SUPER_GRIDS[kind]
    x = (q.astype(np.float32) - grid.zero).reshape(*scale.shape, grid.block) * scale[..., None]
    return _flat(x if offset is None else x + offset[..., None])


def _nibbles(u: Array, run: int) -> Array:
    """(..., 128): of each 2 runs of integers the low four bits, the second run's above the first's."""
    low = (u & 0x0F).reshape(*u.shape[:-1], -1, 2, run)
    packed: Array = (low[..., 0, :] | low[..., 1, :] << np.uint8(4)).reshape(*u.shape[:-1], -1)
    return packed


def _from_nibbles(packed: Array, run: int) -> Array:
    of = packed.reshape(*packed.shape[:-1], -1, run)
    return np.stack([of & 0x0F, of >> 4], -2).reshape(*packed.shape[:-1], SUPER)


def _fifth_bit(u: Array) -> list[Array]:
    """(..., 32): bit j of a byte is that of the j-th block."""
    return [np.packbits((u >> 4).reshape(*u.shape[:-1], 8, 32), axis=-2, bitorder="little")[..., 0, :]]


def _six_bits(u: Array) -> list[Array]:
    """(..., 128) and (..., 64): the low four bits, and the high two of four runs of 32 in a byte, for each half."""
    top = (u >> 4).reshape(*u.shape[:-1], 2, 4, 32)
    high = (
        top[..., 0, :] | top[..., 1, :] << np.uint8(2) | top[..., 2, :] << np.uint8(4) | top[..., 3, :] << np.uint8(6)
    )
    return [_nibbles(u, 64), high.reshape(*u.shape[:-1], 64)]


def _pack_scales(s: Array, m: Array) -> Array:
    """(..., 12): eight scales and eight smallest values of six bits. The high bits of the last four stand above the first."""
    s, m = s.astype(np.uint8), m.astype(np.uint8)
    first = [each[..., :4] | (each[..., 4:] >> 4) << np.uint8(6) for each in (s, m)]
    return np.concatenate([*first, (s[..., 4:] & 0x0F) | m[..., 4:] << np.uint8(4)], -1)


def _unpack_scales(packed: Array) -> tuple[Array, Array]:
    s, m, low = (packed[..., i : i + 4] for i in (0, 4, 8))
    found = [
        np.concatenate([first & 0x3F, rest | (first >> 6) << np.uint8(4)], -1)
        for first, rest in ((s, low & 0x0F), (m, low >> 4))
    ]
    return found[0].astype(np.float32), found[1].astype(np.float32)


def _bytes(half: Array) -> Array:
    return np.ascontiguousarray(half)[..., None].view(np.uint8)


def _half(two_bytes: Array) -> Array:
    """(..., 1) in fp32."""
    return np.ascontiguousarray(two_bytes).view(np.float16).astype(np.float32)


def _flat(blocks: Array) -> Array:
    return blocks.reshape(*blocks.shape[:-2], -1)
