"""Scales: of less change than none, and by what the paper says of them."""

import pytest
import torch

from posttrain.functional.rounding import Integers, nearest, output_error
from posttrain.functional.scaling import awq_scales, smooth_scales
from tests.functional.test_rounding import drawn


def of_one_large_input() -> tuple[torch.Tensor, torch.Tensor]:
    weight, _ = drawn(32, 64)
    sizes = torch.ones(64)
    sizes[5] = 100
    return weight, torch.diag(sizes.square())


def test_a_large_input_gets_finer_steps():
    weight, gram = of_one_large_input()
    scale = awq_scales([weight], gram, [Integers(3)])
    assert scale.argmax() == 5
    assert scale[5] > 2 * scale.median()


def test_the_change_is_less_than_without():
    weight, gram = of_one_large_input()
    grid = Integers(3)
    scale = awq_scales([weight], gram, [grid])
    before = output_error(weight, nearest(weight, grid).dense(), gram)
    assert output_error(weight, nearest(weight * scale, grid).dense() / scale, gram) < 0.7 * before


def test_nothing_is_scaled_where_rounding_costs_nothing():
    weight = torch.tensor([[7.5, -7.5, 1.0, 2.0]])
    assert awq_scales([torch.cat([weight, -weight])[:, 2:]], torch.eye(2), [Integers(8)]).isfinite().all()
    whole = torch.zeros(4, 8)
    assert awq_scales([whole], torch.eye(8), [Integers(4)]).eq(1).all()


def test_several_matrices_share_one_scale():
    weight, gram = of_one_large_input()
    other, _ = drawn(16, 64, seed=3)
    scale = awq_scales([weight, other], gram, [Integers(3), Integers(4)])
    assert scale.shape == (64,)
    assert scale.argmax() == 5


@pytest.mark.parametrize(("alpha", "expected"), [(0.5, [4.0, 1.0, 1.0]), (1, [16.0, 2.0, 4.0]), (0, [1.0, 0.5, 0.25])])
def test_smoothing_by_hand(alpha, expected):
    """Inputs reach 16, 2 and 4, weights 1, 2 and 4: sqrt(16 / 1), sqrt(2 / 2), sqrt(4 / 4)."""
    weights = [torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.2, 0.1, -4.0], [-0.3, 1.0, 3.0]])]
    assert smooth_scales(weights, torch.tensor([16.0, 2.0, 4.0]), alpha).tolist() == pytest.approx(expected)


def test_smoothing_in_the_middle_makes_both_equally_large():
    weight, _ = drawn(32, 64)
    x = torch.randn(100, 64, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 50, 64)
    scale = smooth_scales([weight], x.abs().amax(0), 0.5)
    assert torch.allclose((x / scale).abs().amax(0), (weight * scale).abs().amax(0))


def test_an_input_that_never_comes_leaves_a_scale_that_divides():
    scale = smooth_scales([torch.tensor([[0.0, 1.0]])], torch.tensor([0.0, 0.0]), 0.5)
    assert (scale.isfinite() & (scale > 0)).all()
