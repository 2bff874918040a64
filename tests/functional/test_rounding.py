"""Few bits: by hand, against trying everything, and never further off than rounding to nearest."""

import itertools
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.functional.rounding import (
    Integers,
    Rounded,
    damping,
    fit,
    gptq,
    inverse_factor,
    nearest,
    nearest_per_token,
    output_error,
)

ONE = torch.ones(1, 1), torch.zeros(1, 1)


def drawn(rows: int, columns: int, tokens: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix, and the Gram matrix of inputs that depend on each other and differ in size."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns, generator=draw) @ torch.randn(columns, columns, generator=draw)
    return torch.randn(rows, columns, generator=draw), x.t() @ x


def test_four_bits_around_zero():
    found = nearest(torch.tensor([[7.5, -7.5, 1.0, 0.4]]), Integers(4))
    assert found.scale.tolist() == [[1.0]]
    assert found.ints.tolist() == [
        [7, -8, 1, 0]
    ]  # 7.5 and -7.5 go to the even 8 and -8, of which 8 is no number of four bits
    assert found.dense().tolist() == [[7.0, -8.0, 1.0, 0.0]]


def test_two_bits_anywhere():
    found = nearest(torch.tensor([[1.0, 2.0, 3.0, 0.1]]), Integers(2, symmetric=False))
    assert found.scale.tolist() == [[1.0]]
    assert found.offset.tolist() == [[2.0]]  # numbers from 0 to 3 are -2 ... 1 and two more
    assert found.dense().tolist() == [[1.0, 2.0, 3.0, 0.0]]


def test_each_group_has_its_own_scale():
    found = nearest(torch.tensor([[7.5, 1.0, 0.75, 0.1]]), Integers(4, group=2))
    assert found.scale.tolist() == [[1.0, pytest.approx(0.1)]]


def test_a_group_of_zeros_stays_zero():
    for symmetric in (True, False):
        assert nearest(torch.zeros(2, 4), Integers(4, 2, symmetric)).dense().eq(0).all()


def test_scales_are_those_that_are_stored():
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    scale = nearest(weight, Integers(4, 8, dtype=torch.bfloat16)).scale
    assert scale.eq(scale.bfloat16().float()).all()
    assert scale.ne(nearest(weight, Integers(4, 8)).scale).any()


def test_the_second_weight_makes_up_for_the_first_by_hand():
    """w = (0.4, 0.4), G = (4 2; 2 2): the first goes to 0 and leaves 0.4, and 0.4 + 0.4 * 2/2 = 0.8 goes to 1."""
    gram = torch.tensor([[4.0, 2.0], [2.0, 2.0]])
    found = gptq(torch.tensor([[0.4, 0.4]]), gram, Integers(4), damp=1e-6, scales=ONE)
    assert found is not None
    assert found.ints.tolist() == [[0, 1]]


def test_the_largest_inputs_go_first_wherever_they_stand():
    gram = torch.tensor([[2.0, 2.0], [2.0, 4.0]])
    found = gptq(torch.tensor([[0.4, 0.4]]), gram, Integers(4), damp=1e-6, scales=ONE)
    assert found is not None
    assert found.ints.tolist() == [[1, 0]]


def test_independent_inputs_leave_nothing_to_make_up_for():
    weight, _ = drawn(4, 16)
    found = gptq(weight, torch.eye(16), Integers(4, 8))
    assert found is not None
    assert found.ints.equal(nearest(weight, Integers(4, 8)).ints)


def test_it_comes_close_to_the_best_there_is():
    """Of all 4^4 roundings of a row of four to two bits."""
    ours, best, plain = [], [], []
    for seed in range(20):
        weight, gram = drawn(1, 4, seed=seed)
        scales = fit(weight, Integers(2))
        found = gptq(weight, gram, Integers(2), scales=scales)
        assert found is not None
        ours.append(output_error(weight, found.dense(), gram))
        plain.append(output_error(weight, nearest(weight, Integers(2), scales).dense(), gram))
        every = (torch.tensor([q], dtype=torch.int8) for q in itertools.product(range(-2, 2), repeat=4))
        best.append(min(output_error(weight, Rounded(q, *scales).dense(), gram) for q in every))
    assert all(a >= b - 1e-6 for a, b in zip(ours, best, strict=True))
    assert sum(ours) - sum(best) < 0.5 * (sum(plain) - sum(best))


@pytest.mark.parametrize("grid", [Integers(4, 32), Integers(3), Integers(4, 16, symmetric=False), Integers(2, 8)])
def test_it_is_well_under_rounding_to_nearest(grid):
    weight, gram = drawn(48, 320)
    found = gptq(weight, gram, grid)
    assert found is not None
    assert found.ints.min() >= grid.low
    assert found.ints.max() <= grid.high
    assert output_error(weight, found.dense(), gram) < 0.5 * output_error(weight, nearest(weight, grid).dense(), gram)


def test_blocks_of_columns_change_nothing(monkeypatch):
    weight, gram = drawn(6, 40)
    whole = gptq(weight, gram, Integers(4, 8))
    monkeypatch.setattr("posttrain.functional.rounding.BLOCK", 7)
    parts = gptq(weight, gram, Integers(4, 8))
    assert whole is not None
    assert parts is not None
    assert whole.ints.equal(parts.ints)


def test_narrower_scales_lower_the_weighted_error():
    weight, gram = drawn(16, 64)
    weight[:, 3] *= 6
    grid, matters = Integers(3), gram.diagonal()
    plain, searched = (nearest(weight, grid, fit(weight, grid, m)).dense() for m in (None, matters))
    assert ((weight - searched).square() * matters).sum() < 0.9 * ((weight - plain).square() * matters).sum()


def test_the_factor_is_that_of_the_inverse():
    _, gram = drawn(1, 12)
    factor = inverse_factor(gram, 0.01)
    assert factor is not None
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(12)
    assert torch.allclose(factor.t() @ factor @ damped, torch.eye(12), atol=1e-3)
    assert factor.tril(-1).eq(0).all()


def test_inputs_that_no_token_reached_are_left_to_themselves():
    weight, gram = drawn(4, 12)
    gram[5], gram[:, 5] = 0, 0
    found = gptq(weight, gram, Integers(4))
    assert found is not None
    assert found.ints[:, 5].equal(nearest(weight, Integers(4)).ints[:, 5])


@pytest.mark.parametrize("gram", [torch.zeros(4, 4), torch.full((4, 4), torch.nan), -torch.eye(4)])
def test_what_has_no_inverse_is_told(gram):
    assert gptq(torch.randn(2, 4), gram, Integers(4)) is None


def test_too_few_tokens_are_damped():
    weight, gram = drawn(4, 64, tokens=3)
    found = gptq(weight, gram, Integers(4))
    assert found is not None
    assert output_error(weight, found.dense(), gram) < output_error(weight, nearest(weight, Integers(4)).dense(), gram)


@given(bits=st.sampled_from([2, 3, 4, 8]), symmetric=st.booleans(), seed=st.integers(0, 99), size=st.floats(1e-6, 1e6))
def test_nearest_is_off_by_at_most_a_step(bits: int, symmetric: bool, seed: int, size: float):
    weight = size * torch.randn(3, 24, generator=torch.Generator().manual_seed(seed))
    found = nearest(weight, Integers(bits, 8, symmetric))
    assert ((found.dense() - weight).abs() <= 1.0001 * found.scale.repeat_interleave(8, 1)).all()


def test_each_token_has_its_own_scale():
    """127.5 and 1.275 make steps of 1 and of 0.01; the largest itself would be 127.5, and 127 is the last."""
    x = torch.tensor([[[127.5, -3.4, 0.4], [1.275, -0.034, 0.004]], [[0.0, 0.0, 0.0], [-127.5, 127.0, 2.5]]])
    expected = [[[127.0, -3.0, 0.0], [1.27, -0.03, 0.0]], [[0.0, 0.0, 0.0], [-128.0, 127.0, 2.0]]]
    assert torch.allclose(nearest_per_token(x), torch.tensor(expected))


def test_tokens_are_rounded_as_compressed_tensors_does():
    quantization = pytest.importorskip("compressed_tensors.quantization")
    helpers = pytest.importorskip("compressed_tensors.quantization.utils.helpers")
    forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
    x = torch.randn(3, 50, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 64)
    how = quantization.QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
    scale, zero = helpers.compute_dynamic_scales_and_zp(x, how, module=None)
    assert nearest_per_token(x).equal(forward.fake_quantize(x, scale, zero, how))


def test_a_zero_may_be_kept_from_the_lowest_integer():
    """0 ... 3 in two bits: zero would be the lowest of four integers; one above it leaves 1.5 for each of the steps."""
    grid = Integers(2, symmetric=False, zero_above_low=True)
    found = nearest(torch.tensor([[0.0, 1.5, 3.0, 2.9]]), grid)
    assert (found.scale.tolist(), found.offset.tolist()) == ([[1.5]], [[1.5]])  # the lowest, -2, is -1.5
    assert found.dense().tolist() == [[0.0, 1.5, 3.0, 3.0]]
    below = torch.tensor([[-1.0, 2.0, 0.5, 0.1]])
    assert nearest(below, grid).scale.equal(nearest(below, Integers(2, symmetric=False)).scale)


def test_damping_grows_where_tokens_are_few():
    assert damping(0.01, 64, 8 * 64) == damping(0.01, 64, 10**6) == 0.01
    assert damping(0.01, 64, 64) == pytest.approx(0.01 + (1 - 1 / 8) / 2)


@pytest.mark.parametrize("tokens", [16, 64, 128])
def test_few_tokens_cost_others_little_beside_rounding_to_nearest(tokens):
    """Inputs of 64 columns that hang together a little, judged by other ones of the kind: undamped it is far worse."""
    weight, grid, ratios = drawn(32, 64)[0], Integers(4), {"plain": [], "damped": []}
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        mixed = torch.eye(64) + 0.5 * torch.randn(64, 64, generator=draw) / 8
        seen, others = (torch.randn(n, 64, generator=draw) @ mixed for n in (tokens, 4000))
        gram, judge = seen.t() @ seen, others.t() @ others
        before = output_error(weight, nearest(weight, grid).dense(), judge)
        for name, damp in (("plain", 0.01), ("damped", damping(0.01, 64, tokens))):
            found = gptq(weight, gram, grid, damp)
            assert found is not None
            ratios[name].append(output_error(weight, found.dense(), judge) / before)
    assert fmean(ratios["damped"]) < min(1.1, 0.95 * fmean(ratios["plain"]))
