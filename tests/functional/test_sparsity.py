"""Zeros: by hand, as many as asked for, and never further off than the smallest weights would be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.functional.rounding import output_error
from posttrain.functional.sparsity import lowest, magnitude, smallest, sparsegpt, wanda
from tests.functional.test_rounding import drawn


def test_the_smallest_of_the_whole_matrix_go():
    assert magnitude(torch.tensor([[1.0, -2.0], [3.0, 4.0]]), 0.5).tolist() == [[0, 0], [3, 4]]


def test_two_of_four_go_in_each_row():
    weight = torch.tensor([[1.0, 2.0, -3.0, 4.0, 9.0, 8.0, 7.0, 6.0]])
    assert magnitude(weight, 0.5, 4).tolist() == [[0, 0, -3, 4, 9, 8, 0, 0]]


def test_a_small_weight_of_a_large_input_stays():
    gram = torch.diag(torch.tensor([100.0, 1.0]))
    assert wanda(torch.tensor([[1.0, 5.0], [1.0, 20.0]]), gram, 0.5).tolist() == [[1, 0], [0, 20]]


def test_the_other_weight_makes_up_for_a_zero_by_hand():
    """w = (0.1, 1), G = (2 1; 1 1): without the first, 0.1 * 1/1 more of the second changes least: 1.1."""
    gram = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    found = sparsegpt(torch.tensor([[0.1, 1.0]]), gram, 0.5, damp=1e-7)
    assert found is not None
    assert found.tolist() == [[0, pytest.approx(1.1, abs=1e-4)]]


@pytest.mark.slow
@given(share=st.sampled_from([0.25, 0.5, 0.75]), of=st.sampled_from([None, 4, 8]), seed=st.integers(0, 20))
def test_there_are_as_many_zeros_as_asked_for(share: float, of: int | None, seed: int):
    weight, gram = drawn(6, 160, seed=seed)
    for found in (magnitude(weight, share, of), wanda(weight, gram, share, of), sparsegpt(weight, gram, share, of)):
        assert found is not None
        zeros = found.eq(0)
        if of is None:
            assert zeros.float().mean() == pytest.approx(share, abs=0.01)
        else:
            assert zeros.reshape(6, -1, of).sum(-1).eq(share * of).all()


@pytest.mark.parametrize("of", [None, 4])
def test_each_way_is_closer_than_the_one_before(of):
    weight, gram = drawn(48, 256)
    sizes = torch.linspace(0.1, 3, 256)[torch.randperm(256, generator=torch.Generator().manual_seed(0))]
    gram = gram * torch.outer(sizes, sizes)  # inputs of very different size, which magnitude knows nothing of
    found = (magnitude(weight, 0.5, of), wanda(weight, gram, 0.5, of), sparsegpt(weight, gram, 0.5, of))
    errors = [output_error(weight, each, gram) for each in found if each is not None]
    assert errors[2] < 0.7 * errors[1]
    assert errors[1] < 0.7 * errors[0]


def test_independent_inputs_leave_nothing_to_make_up_for():
    weight, _ = drawn(8, 64)
    found = sparsegpt(weight, torch.eye(64), 0.5)
    assert found is not None
    assert torch.equal(found, magnitude(weight, 0.5))


def test_ties_are_cut_from_the_left():
    assert lowest(torch.ones(1, 4), 0.5, None).tolist() == [[True, True, False, False]]


def test_what_has_no_inverse_is_told():
    assert sparsegpt(torch.randn(2, 4), torch.zeros(4, 4), 0.5) is None


@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=40), share=st.floats(0, 1))
def test_of_equal_scores_the_first_are_the_smallest(values: list[int], share: float):
    scores = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(smallest(scores, share), lowest(scores.reshape(1, -1), share, None)[0])
