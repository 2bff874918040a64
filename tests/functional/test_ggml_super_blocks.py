"""Super-blocks of llama.cpp: bytes by hand, and weights that are those of the package bit for bit."""

import numpy as np
import pytest

from posttrain.functional.ggml_super_blocks import (
    COARSE,
    SUPER,
    SUPER_GRIDS,
    factors,
    pack_super_blocks,
    super_blocks_as_weights,
    unpack_super_blocks,
)

S, M = [63, 1, 2, 3, 17, 33, 48, 4], [0, 63, 5, 6, 16, 32, 1, 7]


def drawn(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Three rows of two super-blocks, with the largest scale anywhere; one super-block has no offsets."""
    grid, draw = SUPER_GRIDS[kind], np.random.default_rng(seed)

    def products(least: int) -> np.ndarray:
        step = np.abs(draw.normal(size=(3, 2, 1))).astype(np.float16).astype(np.float32)
        whole = draw.integers(least, grid.most + 1, (3, 2, grid.blocks))
        np.put_along_axis(whole, draw.integers(0, grid.blocks, (3, 2, 1)), grid.most, -1)
        return (step * whole.astype(np.float32)).reshape(3, -1)

    q = draw.integers(0, 1 << grid.bits, (3, 2 * SUPER))
    if not grid.has_min:
        return q, products(-grid.most), None
    offset = -products(0)
    offset[0, : grid.blocks] = 0
    return q, products(1), offset


def test_a_super_block_of_four_bits_by_hand():
    q = np.zeros(SUPER, dtype=int)
    q[0], q[32], q[255] = 15, 10, 3
    scale, offset = np.array(S, dtype=np.float32), -0.5 * np.array(M, dtype=np.float32)
    packed = pack_super_blocks("q4_k", q, scale, offset)
    assert packed[:4].tolist() == [0x00, 0x3C, 0x00, 0x38]  # 1.0 and 0.5 in half precision
    assert packed[4:16].tolist() == [63 + 64, 1 + 128, 2 + 192, 3, 0 + 64, 63 + 128, 5, 6, 1, 1, 16, 4 + 7 * 16]
    assert (packed[16], packed[143]) == (15 + 10 * 16, 3 * 16)
    weights = super_blocks_as_weights("q4_k", *unpack_super_blocks("q4_k", packed))
    assert (weights[0], weights[32], weights[255]) == (63 * 15, 10 - 31.5, 12 - 3.5)


def test_the_fifth_bit_by_hand():
    q = np.zeros(SUPER, dtype=int)
    q[0], q[33], q[255] = 16, 31, 17
    packed = pack_super_blocks("q5_k", q, np.full(8, 63, dtype=np.float32), np.zeros(8, dtype=np.float32))
    assert packed[16:48].tolist() == [1, 2, *[0] * 29, 128]  # a bit for each block in the byte of a column
    assert (packed[48], packed[49], packed[175]) == (0, 15 * 16, 16)


def test_a_super_block_of_six_bits_by_hand():
    q = np.full(SUPER, 32)
    q[0], q[64] = 63, 33
    scale = np.full(16, -2, dtype=np.float32)
    scale[4] = 254
    packed = pack_super_blocks("q6_k", q, scale)
    assert packed[:2].tolist() == [0x1F, 0]
    assert packed[128:130].tolist() == [0b10101011, 0b10101010]  # the high bits of 63, 32, 33 and 32; then of 32
    assert packed[192:208].astype(np.int8).tolist() == [-1, -1, -1, -1, 127, *[-1] * 11]
    assert packed[208:].tolist() == [0x00, 0x40]  # 2.0
    weights = super_blocks_as_weights("q6_k", *unpack_super_blocks("q6_k", packed))
    assert (weights[0], weights[1], weights[64]) == (-62, 0, 254)


@pytest.mark.parametrize("kind", SUPER_GRIDS)
@pytest.mark.parametrize("seed", range(3))
def test_what_was_packed_comes_back_and_the_package_reads_the_same(kind, seed):
    package = pytest.importorskip("gguf", reason="the package gguf is not installed")
    parts = drawn(kind, seed)
    packed = pack_super_blocks(kind, *parts)
    assert packed.shape == (3, 2 * SUPER_GRIDS[kind].bytes)
    again = unpack_super_blocks(kind, packed)
    for before, after in zip(parts, again, strict=True):
        assert (before is None and after is None) or np.array_equal(before, after)
    read = package.quants.dequantize(packed, package.GGMLQuantizationType[kind.upper()])
    assert np.array_equal(super_blocks_as_weights(kind, *again), read)


@pytest.mark.parametrize("kind", SUPER_GRIDS)
def test_any_bytes_are_read_as_the_package_reads_them(kind):
    package = pytest.importorskip("gguf", reason="the package gguf is not installed")
    grid = SUPER_GRIDS[kind]
    packed = np.random.default_rng(1).integers(0, 256, (5, 2, grid.bytes), dtype=np.uint8)
    halves = [slice(0, 2), slice(2, 4)] if grid.has_min else [slice(208, 210)]
    for place in halves:
        packed[..., place] = np.array([0.37], dtype=np.float16).view(np.uint8)
    packed = packed.reshape(5, -1)
    read = package.quants.dequantize(packed, package.GGMLQuantizationType[kind.upper()])
    assert np.array_equal(super_blocks_as_weights(kind, *unpack_super_blocks(kind, packed)), read)


def test_steps_are_found_again():
    step, whole = factors(np.array([[63 / 4, 21 / 4, 0, COARSE]], dtype=np.float32), 4, 63)
    assert (step.tolist(), whole.tolist()) == ([[0.25]], [[[63, 21, 0, 0]]])
    step, whole = factors(np.full((1, 8), COARSE), 8, 63)
    assert (step.tolist(), whole.tolist()) == ([[0.0]], [[[0] * 8]])


def test_what_a_type_cannot_hold_is_refused():
    q, scale, offset = drawn("q4_k")
    with pytest.raises(ValueError, match=r"q4_k holds integers from 0 to 15, not 16 to 16"):
        pack_super_blocks("q4_k", np.full_like(q, 16), scale, offset)
    with pytest.raises(ValueError, match=r"q4_k needs offsets"):
        pack_super_blocks("q4_k", q, scale)
    with pytest.raises(ValueError, match=r"q6_k has no place for offsets"):
        pack_super_blocks("q6_k", q, scale, offset)
    with pytest.raises(ValueError, match=r"times whole ones, and these are not"):
        pack_super_blocks("q4_k", q, scale + np.float32(1e-3), offset)
