"""Polishing: by hand, never worse, at rest where nothing is better, and on every grid."""

import itertools

import pytest
import torch

from posttrain.functional.ggml_grids import BlockGrid
from posttrain.functional.polishing import polished
from posttrain.functional.rounding import Integers, Rounded, damped, gptq, nearest, output_error
from tests.functional.test_rounding import drawn

NO_DAMP = 1e-9


def test_an_integer_moves_for_what_the_other_is_by_hand():
    """w = (0.4, 0.4), G = (4 2; 2 2), scale 1, from (1, 1): D = (-0.6, -0.6), D G = (-3.6, -2.4). The first wants
    1 - 3.6/4 = 0.1 and goes to 0: D = (0.4, -0.6). The second wants 1 + (0.4 * 2 - 0.6 * 2)/2 = 0.8 and stays."""
    gram = torch.tensor([[4.0, 2.0], [2.0, 2.0]])
    start = Rounded(torch.tensor([[1, 1]], dtype=torch.int8), torch.ones(1, 1), torch.zeros(1, 1))
    grid = _FixedScale(4)
    assert polished(torch.tensor([[0.4, 0.4]]), gram, start, grid, NO_DAMP, 1).ints.tolist() == [[0, 1]]


def test_a_scale_is_least_squares_by_hand():
    """Inputs that do not depend on each other: 3 and 1 for (3.2, 0.9) want the scale (3 * 3.2 + 0.9) / 10 = 1.05."""
    start = Rounded(torch.tensor([[3, 1]], dtype=torch.int8), torch.ones(1, 1), torch.zeros(1, 1))
    found = polished(torch.tensor([[3.2, 0.9]]), torch.eye(2), start, Integers(4), NO_DAMP, 1)
    assert found.ints.tolist() == [[3, 1]]
    assert found.scale.item() == pytest.approx(1.05, abs=1e-6)


GRIDS = [
    Integers(4, 8),
    Integers(3, None),
    Integers(2, 16, symmetric=False),
    Integers(4, 32, dtype=torch.bfloat16),
    *map(BlockGrid, ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")),
]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("begin", ["nearest", "gptq"])
def test_it_is_closer_and_stays_on_its_grid(grid, begin):
    weight, gram = drawn(12, 160)
    start = nearest(weight, grid) if begin == "nearest" else gptq(weight, gram, grid)
    assert start is not None
    found = polished(weight, gram, start, grid, 0.01, 2)
    assert error(weight, found, gram) < 0.99 * error(weight, start, gram)
    assert found.ints.min() >= grid.low
    assert found.ints.max() <= grid.high
    if isinstance(grid, Integers):
        scale, zero = found.scale, found.offset / found.scale
        assert scale.to(grid.dtype).float().equal(scale)
        assert (zero - zero.round()).abs().max() < 1e-4
    else:
        assert found.scale.half().float().equal(found.scale)
        assert found.offset.half().float().equal(found.offset)


def test_nothing_single_is_better_afterwards():
    """After many rounds no integer alone, moved by one, lowers the error."""
    weight, gram = drawn(3, 12)
    grid = _FixedScale(3)
    found = polished(weight, gram, nearest(weight, grid), grid, NO_DAMP, 20)
    least = row_errors(weight, found, gram)
    for column, step in itertools.product(range(12), (-1, 1)):
        moved = found.ints.clone()
        moved[:, column] = (moved[:, column] + step).clamp(grid.low, grid.high)
        assert (row_errors(weight, found._replace(ints=moved), gram) >= least * (1 - 1e-4)).all()


def test_inputs_that_no_token_reached_and_a_group_of_zeros_do_no_harm():
    weight, gram = drawn(4, 64)
    weight[:, :32] = 0
    gram[40], gram[:, 40] = 0, 0
    found = polished(weight, gram, nearest(weight, BlockGrid("q4_0")), BlockGrid("q4_0"), 0.01, 2)
    assert found.dense().isfinite().all()
    assert found.dense()[:, :32].eq(0).all()


def test_no_rounds_are_no_change():
    weight, gram = drawn(4, 32)
    start = nearest(weight, Integers(4))
    assert polished(weight, gram, start, Integers(4), 0.01, 0) is start


def test_blocks_of_columns_change_nothing(monkeypatch):
    """All columns in one block, or in several, which hear of each other's errors only at their end."""
    weight, gram = drawn(6, 96)
    grid = Integers(3, 32)
    start = nearest(weight, grid)
    several = polished(weight, gram, start, grid, 0.01, 1)
    monkeypatch.setattr("posttrain.functional.rounding.BLOCK", 7)
    assert polished(weight, gram, start, grid, 0.01, 1).ints.equal(several.ints)


class _FixedScale(Integers):
    """Integers whose scale is 1 and stays so."""

    def fit(self, groups):
        return torch.ones(groups.shape[:2]), torch.zeros(groups.shape[:2])

    def rescaled(self, wanted, scale, offset):
        return scale, offset


def error(weight: torch.Tensor, found: Rounded, gram: torch.Tensor) -> float:
    return output_error(weight, found.dense(), damped(gram, 0.01))


def row_errors(weight: torch.Tensor, found: Rounded, gram: torch.Tensor) -> torch.Tensor:
    change = weight - found.dense()
    return ((change @ gram) * change).sum(1)
