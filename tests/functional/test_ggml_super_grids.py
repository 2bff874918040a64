"""Grids of super-blocks: what is found is what a file holds, close, and closest where it matters."""

import numpy as np
import pytest
import torch

from posttrain.functional.ggml_grids import BlockGrid
from posttrain.functional.ggml_super_blocks import SUPER, SUPER_GRIDS, pack_super_blocks
from posttrain.functional.ggml_super_grids import SuperBlockGrid, round_super_blocks, super_blocks_of
from posttrain.functional.rounding import fit, gptq, nearest, output_error
from tests.functional.test_rounding import drawn


def as_read(kind: str, parts: tuple) -> np.ndarray:
    """What another program makes of the bytes."""
    package = pytest.importorskip("gguf", reason="the package gguf is not installed")
    read: np.ndarray = package.quants.dequantize(
        pack_super_blocks(kind, *parts), package.GGMLQuantizationType[kind.upper()]
    )
    return read


@pytest.mark.parametrize("kind", SUPER_GRIDS)
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 100.0])
def test_the_numbers_are_what_a_file_holds(kind, size):
    weight, gram = drawn(8, 2 * SUPER)
    grid = SuperBlockGrid(kind)
    for scales in (None, fit(size * weight, grid, gram.diagonal())):
        found = gptq(size * weight, gram, grid, scales=scales)
        assert found is not None
        assert np.array_equal(as_read(kind, super_blocks_of(kind, found)), found.dense().numpy())


@pytest.mark.parametrize("kind", SUPER_GRIDS)
def test_solved_is_closer_than_nearest(kind):
    weight, gram = drawn(48, 2 * SUPER)
    grid = SuperBlockGrid(kind)
    found = gptq(weight, gram, grid, scales=fit(weight, grid, gram.diagonal()))
    assert found is not None
    assert output_error(weight, found.dense(), gram) < 0.5 * output_error(weight, nearest(weight, grid).dense(), gram)


@pytest.mark.parametrize(("kind", "blocks"), [("q4_k", "q4_0"), ("q5_k", "q5_0")])
def test_it_is_closer_than_simple_blocks_of_the_same_bytes(kind, blocks):
    weight, _ = drawn(16, SUPER)
    error = (nearest(weight, SuperBlockGrid(kind)).dense() - weight).square().sum()
    assert error < 0.75 * (nearest(weight, BlockGrid(blocks)).dense() - weight).square().sum()


@pytest.mark.parametrize("kind", SUPER_GRIDS)
def test_columns_that_matter_are_closer(kind):
    weight, _ = drawn(16, SUPER)
    matters = torch.ones(SUPER)
    matters[::4] = 50.0
    grid = SuperBlockGrid(kind)
    plain, careful = (
        (nearest(weight, grid, fit(weight, grid, each)).dense() - weight).square() for each in (None, matters)
    )
    assert careful[:, ::4].sum() < 0.8 * plain[:, ::4].sum()
    assert (careful * matters).sum() < (plain * matters).sum()
    assert careful.sum() > plain.sum()


@pytest.mark.parametrize("kind", SUPER_GRIDS)
def test_scales_and_integers_that_there_are_are_found(kind):
    """Six equal blocks of the whole range and two of half of it, which is not an eighth of anything: exact but for the step."""
    grid = SuperBlockGrid(kind)
    step = torch.arange(grid.low, grid.high + 1).float()
    ramp = step.repeat(SUPER // len(step) + 1)[: grid.group]
    ramp[0], ramp[-1] = grid.low, grid.high
    sizes = torch.tensor([1.0] * (grid.of.blocks - 2) + [0.5, 0.5])
    weight = (sizes[:, None] * ramp).reshape(1, SUPER) / 64
    assert (nearest(weight, grid).dense() - weight).abs().max() < 0.02 * weight.abs().max()


@pytest.mark.parametrize("kind", SUPER_GRIDS)
@pytest.mark.parametrize("value", [0.0, 0.5, -0.5, 1e-6, -3e-8])
def test_a_super_block_of_one_number(kind, value):
    read = as_read(kind, round_super_blocks(kind, np.full((2, 2 * SUPER), value, dtype=np.float32)))
    assert np.abs(read - value).max() < max(1e-3 * abs(value), 2e-6)


@pytest.mark.parametrize("kind", SUPER_GRIDS)
def test_zeros_beside_numbers_stay_zeros(kind):
    weight = np.zeros((1, 2 * SUPER), dtype=np.float32)
    weight[0, :64] = np.random.default_rng(0).normal(size=64)
    read = as_read(kind, round_super_blocks(kind, weight))
    assert not read[0, 64:].any()
    assert np.abs(read - weight).max() < 0.2


def test_several_matrices_are_rounded_as_each_by_itself():
    weights = np.random.default_rng(0).normal(size=(3, 2, SUPER)).astype(np.float32)
    matters = np.random.default_rng(1).random((3, SUPER)).astype(np.float32)
    together = as_read("q4_k", round_super_blocks("q4_k", weights, matters))
    for each, one, worth in zip(together, weights, matters, strict=True):
        assert np.array_equal(each, as_read("q4_k", round_super_blocks("q4_k", one, worth)))
