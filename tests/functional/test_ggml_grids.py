"""Grids of llama.cpp's blocks: the numbers that it reads, the scales of its own rounding, and solved closer than that."""

import numpy as np
import pytest
import torch

from posttrain.functional.ggml_blocks import GRIDS, pack_blocks, round_blocks
from posttrain.functional.ggml_grids import BlockGrid, blocks_of
from posttrain.functional.rounding import fit, gptq, nearest, output_error
from tests.functional.test_rounding import drawn


@pytest.mark.parametrize("kind", GRIDS)
def test_scales_are_those_of_llama_cpp(kind):
    weight, _ = drawn(8, 96)
    scale, offset = fit(weight, BlockGrid(kind))
    _, d, m = round_blocks(kind, weight.numpy())
    assert np.allclose(scale.numpy(), d, rtol=2e-3)
    assert m is None or np.allclose(offset.numpy(), m, rtol=1e-3)


@pytest.mark.parametrize("kind", GRIDS)
def test_the_numbers_are_what_a_file_holds(kind):
    package = pytest.importorskip("gguf")
    weight, gram = drawn(8, 96)
    found = gptq(weight, gram, BlockGrid(kind))
    assert found is not None
    packed = pack_blocks(kind, *blocks_of(kind, found))
    read = package.quants.dequantize(packed, package.GGMLQuantizationType[kind.upper()])
    assert np.array_equal(read, found.dense().numpy())


@pytest.mark.parametrize("kind", GRIDS)
def test_solved_is_closer_than_stock(kind):
    weight, gram = drawn(48, 320)
    grid = BlockGrid(kind)
    found = gptq(weight, gram, grid, scales=fit(weight, grid, gram.diagonal()))
    assert found is not None
    assert output_error(weight, found.dense(), gram) < 0.5 * output_error(weight, nearest(weight, grid).dense(), gram)


@pytest.mark.parametrize("kind", GRIDS)
def test_a_block_of_one_number_is_exact(kind):
    for value in (0.0, 0.5):
        assert nearest(torch.full((2, 32), value), BlockGrid(kind)).dense().sub(value).abs().max() < 1e-3
