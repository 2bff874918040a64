"""Blocks of llama.cpp: the bytes are those of its own rounding, and integers from elsewhere are packed as they are."""

import numpy as np
import pytest

from posttrain.functional.ggml_blocks import BLOCK, GRIDS, blocks_as_weights, pack_blocks, round_blocks, unpack_blocks

SHAPES = ((3, 64), (2, 5, 96))


def weights(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """With a block of zeros, one of equal values, one far from zero and one of halves."""
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    flat = x.reshape(-1, BLOCK)
    flat[0], flat[1], flat[2] = 0.0, 0.25, flat[2] + 40
    flat[3] = np.arange(BLOCK) - 15.5
    return x


def test_a_block_by_hand():
    x = np.zeros(BLOCK, dtype=np.float32)
    x[0], x[1], x[16] = -8.0, 3.0, 7.0  # the largest in size is -8: the scale is 1, 0 is written as 8
    packed = pack_blocks("q4_0", *round_blocks("q4_0", x))
    assert packed.tolist() == [0x00, 0x3C, 0xF0, 0x8B, *[0x88] * 14]  # 1.0 in half precision, then 15 and 0, 8 and 11


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_the_bytes_are_those_of_the_package(kind, shape, seed):
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    quantised = gguf.GGMLQuantizationType[kind.upper()]
    x = weights(shape, seed)
    ours = pack_blocks(kind, *round_blocks(kind, x))
    assert np.array_equal(ours, gguf.quants.quantize(x, quantised))
    assert np.array_equal(blocks_as_weights(kind, *unpack_blocks(kind, ours)), gguf.quants.dequantize(ours, quantised))


@pytest.mark.parametrize("kind", GRIDS)
def test_integers_from_a_solver_come_back_bit_for_bit(kind):
    grid, draw = GRIDS[kind], np.random.default_rng(1)
    least, most = (-128, 127) if grid.is_signed else (0, (1 << grid.bits) - 1)
    q = draw.integers(least, most + 1, (4, 96))
    d = draw.normal(size=(4, 3)).astype(np.float16)
    m = draw.normal(size=(4, 3)).astype(np.float16) if grid.has_min else None
    packed = pack_blocks(kind, q, d, m)
    again = unpack_blocks(kind, packed)
    assert packed.shape == (4, 3 * grid.bytes)
    assert np.array_equal(again[0], q)
    assert np.array_equal(again[1], d)
    assert m is None or np.array_equal(again[2], m)


def test_what_a_type_cannot_hold_is_refused():
    one = np.ones((1, 1), dtype=np.float32)
    with pytest.raises(ValueError, match=r"q4_0 holds integers from 0 to 15, not 16 to 16"):
        pack_blocks("q4_0", np.full((1, 32), 16), one)
    with pytest.raises(ValueError, match=r"q4_1 needs smallest values"):
        pack_blocks("q4_1", np.zeros((1, 32), dtype=int), one)
    with pytest.raises(ValueError, match=r"q8_0 has no place for smallest values"):
        pack_blocks("q8_0", np.zeros((1, 32), dtype=int), one, one)
