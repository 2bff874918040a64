"""Losses on preferences by hand, by finite differences, and at the ends of what floats can hold."""

import math

import pytest
import torch

from posttrain.functional.preference import (
    SUREST,
    bradley_terry,
    hinge,
    identity_preference,
    log1mexp,
    log_odds,
    pair_metrics,
    prospect,
    robust,
)


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values)


THREE_TO_ONE = of(math.log(3)), of(0.0)  # sigmoid(log 3) = 3/4; flipped, 1/4


def test_no_margin_is_one_coin():
    assert bradley_terry(of(1.0), of(1.0)).item() == pytest.approx(math.log(2))


def test_margin_of_log_three():
    chosen, rejected = THREE_TO_ONE
    assert bradley_terry(chosen, rejected).item() == pytest.approx(math.log(4 / 3))
    assert bradley_terry(rejected, chosen).item() == pytest.approx(math.log(4))


def test_smoothing_mixes_in_the_flipped_pair():
    wanted = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert bradley_terry(*THREE_TO_ONE, 0.1).item() == pytest.approx(wanted)


def test_robust_takes_the_flipped_pair_away():
    wanted = (0.9 * math.log(4 / 3) - 0.1 * math.log(4)) / 0.8
    assert robust(*THREE_TO_ONE, 0.1).item() == pytest.approx(wanted)


def test_robust_is_unbiased():
    """Of pairs that are flipped with probability e, its expectation is the loss of pairs that are not."""
    chosen, rejected = THREE_TO_ONE
    expected = 0.8 * robust(chosen, rejected, 0.2) + 0.2 * robust(rejected, chosen, 0.2)
    assert expected.item() == pytest.approx(math.log(4 / 3))


def test_hinge_asks_for_a_margin_of_one():
    assert hinge(of(0.7, 0.3, 2.0), of(0.3, 0.7, 0.5)).tolist() == pytest.approx([0.6, 1.4, 0.0])


def test_identity_preference_is_the_square_of_what_lacks_or_is_too_much():
    # 1 / (2 * 0.25) = 2
    found = identity_preference(of(2.5, 0.5, 4.0), of(0.5, 1.0, 1.0), 0.25)
    assert found.tolist() == pytest.approx([0.0, 2.5**2, 1.0])


def test_prospect_of_one_quarter():
    good = torch.tensor([True, False, True])
    assert prospect(of(math.log(3), math.log(3), 0.0), good).tolist() == pytest.approx([1 / 4, 3 / 4, 1 / 2])


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.7, 0.999])
def test_odds_by_hand(p):
    assert log_odds(of(math.log(p))).item() == pytest.approx(math.log(p / (1 - p)), rel=1e-4)


@pytest.mark.parametrize("x", [-1e-30, -1e-12, -1e-6, -0.3, -0.6931, -0.6932, -2.0, -20.0, -80.0])
def test_log1mexp_keeps_its_digits(x):
    """Against doubles: ln(1 - e^x) by its series where doubles lose digits too."""
    exact = math.log(-math.expm1(x)) if x > -30 else -math.exp(x)
    assert log1mexp(of(x)).item() == pytest.approx(exact, rel=1e-5, abs=0)


def test_certain_answers_have_finite_odds():
    """Where plain `log(1 - exp(a))` is minus infinity, and the difference of two such odds is not a number."""
    certain = torch.zeros(1, requires_grad=True)
    likely = torch.tensor([-1e-3], requires_grad=True)
    for chosen, rejected in ((certain, certain), (certain, likely), (likely, certain)):
        loss = bradley_terry(log_odds(chosen), log_odds(rejected)).sum()
        assert math.isfinite(loss.item())
        for gradient in torch.autograd.grad(loss, [chosen, rejected], allow_unused=True):
            assert gradient is None or bool(gradient.isfinite().all())
    assert log_odds(certain).item() == pytest.approx(-math.log(SUREST), rel=1e-3)


def test_odds_of_narrow_floats_are_computed_in_wide_ones():
    narrow = torch.tensor([-0.01], dtype=torch.bfloat16)
    assert log_odds(narrow).dtype == torch.float32
    assert log_odds(narrow).item() == pytest.approx(-math.log(math.expm1(-narrow.item() * 1.0)), rel=1e-5)


LOSSES = {
    "bradley_terry": bradley_terry,
    "smoothed": lambda c, r: bradley_terry(c, r, 0.2),
    "robust": lambda c, r: robust(c, r, 0.2),
    "hinge": hinge,
    "identity_preference": lambda c, r: identity_preference(c, r, 0.3),
    "prospect": lambda c, r: prospect(c - r, torch.tensor([True, False, True, False])),
    "odds": lambda c, r: bradley_terry(log_odds(c), log_odds(r)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    chosen = torch.tensor([-0.2, -1.5, -3.0, -0.69], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-2.0, -0.4, -0.1, -6.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LOSSES[name], (chosen, rejected))


@pytest.mark.parametrize("name", LOSSES)
def test_the_ends_of_what_floats_hold_give_no_nan(name):
    ends = [-1e4, -200.0, -1e-8, 0.0]
    chosen = torch.tensor(ends * 4, requires_grad=True)
    rejected = torch.tensor([end for end in ends for _ in ends], requires_grad=True)
    losses = sum(LOSSES[name](c, r) for c, r in zip(chosen.split(4), rejected.split(4), strict=True))
    losses.sum().backward()
    for found in (losses, chosen.grad, rejected.grad):
        assert bool(found.isfinite().all())


def test_metrics_are_shares_of_the_whole_batch():
    """Two micro-batches of three pairs: their shares sum to the means. A tie is no win."""
    first = pair_metrics(of(1.0, 0.0), 3, reward=of(3.0, -1.0, 2.0, -1.0))
    second = pair_metrics(of(-4.0), 3, reward=of(-2.0, 2.0))
    found = {name: (first[name] + second[name]).item() for name in first}
    wanted = {"accuracy": 1 / 3, "margin": -1.0, "chosen_reward": 0.0, "rejected_reward": 1.0}
    assert found == pytest.approx(wanted)
