"""Merging: by hand, what all share stays to the bit, and the mean over draws of what DARE leaves is what was learnt."""

import math

import pytest
import torch

from posttrain.functional.merging import (
    agreeing,
    conflicts,
    disjoint_mean,
    disjoint_sum,
    drop,
    linear,
    slerp,
    trim,
    weighted_sum,
)

ONES = torch.ones(2)


def test_a_weighted_mean():
    """(1, 2) and (5, 2), three to one: (1 + (5 - 1) / 4, 2)."""
    assert linear(torch.tensor([[1.0, 2.0], [5.0, 2.0]]), torch.tensor([3.0, 1.0])).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("merge", [linear, slerp])
def test_what_all_share_stays_to_the_bit(merge):
    weight = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(merge(torch.stack([weight, weight]), torch.tensor([0.3, 0.7])), weight)


def test_an_arc_between_two():
    """A third of the way from (2, 0) to (0, 2), a right angle apart: 2 cos 30, 2 sin 30."""
    found = slerp(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([2.0, 1.0]))
    assert found.tolist() == pytest.approx([math.sqrt(3), 1.0])


def test_an_arc_keeps_the_length_that_a_line_loses():
    two = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    two = two / two.flatten(1).norm(dim=1)[:, None, None]
    assert slerp(two, ONES).norm() == pytest.approx(1.0, abs=1e-5)
    assert linear(two, ONES).norm() < 0.75


@pytest.mark.parametrize(
    ("two", "middle"),
    [([[1.0, 2.0], [2.0, 4.0]], [1.5, 3.0]), ([[1.0, 2.0], [-1.0, -2.0]], [0.0, 0.0]), ([[0.0, 0.0], [2.0, 4.0]], [1.0, 2.0])],
)  # fmt: skip
def test_where_there_is_no_arc_it_is_a_line(two, middle):
    assert slerp(torch.tensor(two), ONES).tolist() == middle


def test_what_each_learnt_is_summed_up():
    """2 (1, -2) - 1 (3, 4) = (-1, -8)."""
    tasks = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    assert weighted_sum(tasks, torch.tensor([2.0, -1.0])).tolist() == [-1.0, -8.0]


def test_the_largest_of_each_stay():
    tasks = torch.tensor([[[1.0, -4.0], [3.0, 2.0]], [[0.1, 0.4], [-0.2, 0.3]]])
    assert trim(tasks, 0.5).tolist() == [[[0, -4], [3, 0]], [[0, pytest.approx(0.4)], [0, pytest.approx(0.3)]]]
    assert torch.equal(trim(tasks, 1.0), tasks)


def test_signs_are_elected_by_hand():
    """First entry: 3 - 1 > 0 elects plus, of one alone. Second: both. Third: -2 + 1 < 0. Fourth: 1 - 1 elects none. Fifth: one
    has nothing to say."""
    tasks = torch.tensor([[3.0, 1.0, -2.0, 1.0, 0.0], [-1.0, 5.0, 1.0, -1.0, 4.0]])
    assert agreeing(tasks, ONES).tolist() == [[True, True, True, False, False], [False, True, False, False, True]]
    assert disjoint_mean(tasks, ONES).tolist() == [3.0, 3.0, -2.0, 0.0, 4.0]
    assert disjoint_sum(tasks, ONES).tolist() == [3.0, 6.0, -2.0, 0.0, 4.0]
    assert conflicts(tasks).tolist() == [True, False, True, True, False]


def test_weights_turn_an_election_and_weigh_a_mean():
    """1 * 3 - 4 * 1 < 0 elects minus, of the second alone; (1 * 1 + 4 * 6) / 5 = 5; weights 1 and 4 summed: 25."""
    tasks, weights = torch.tensor([[3.0, 1.0], [-1.0, 6.0]]), torch.tensor([1.0, 4.0])
    assert disjoint_mean(tasks, weights).tolist() == [-1.0, 5.0]
    assert disjoint_sum(tasks, weights).tolist() == [-4.0, 25.0]


def test_what_is_left_of_a_drop_is_scaled_up():
    tasks = torch.ones(2, 100_000)
    found = drop(tasks, 0.1, torch.Generator().manual_seed(0))
    assert set(found.unique().tolist()) == {0.0, 10.0}
    assert found.ne(0).float().mean(1).tolist() == pytest.approx([0.1, 0.1], abs=0.005)  # five standard deviations
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found, drop(tasks, 0.1, torch.Generator().manual_seed(0)))
    assert torch.equal(drop(tasks, 1.0, torch.Generator().manual_seed(0)), tasks)


def test_the_mean_over_draws_is_what_was_learnt():
    task = torch.linspace(-1, 1, 11)[None]
    drawn = [drop(task, 0.25, torch.Generator().manual_seed(seed)) for seed in range(4000)]
    assert torch.allclose(torch.stack(drawn).mean(0), task, atol=0.14)  # five of sqrt(3 / 4000)
