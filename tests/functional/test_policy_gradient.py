"""Advantages, surrogates and estimates of KL by hand, by enumeration, and at the ends of what floats hold."""

import itertools
import math

import pytest
import torch

from posttrain.functional.policy_gradient import (
    adapted,
    clipped_surrogate,
    clipped_value,
    explained_variance,
    gae,
    group_advantages,
    k3,
    leave_one_out,
    log_ratio,
    mean_ahead,
    whitened,
)


def close(values):
    return pytest.approx(values, rel=1e-6, abs=1e-6)


def test_gae_by_hand():
    """An answer of three tokens that ended, and one of two that was cut off where 2 was still expected.

    g = 1/2, l = 1/2, so g l = 1/4.  First: d3 = 4 - 3 = 1,  d2 = 1 + 3/2 - 2 = 1/2,  d1 = 0 + 2/2 - 1 = 0,
    A3 = 1,  A2 = 1/2 + 1/4 = 3/4,  A1 = 0 + 3/16.   Second: d2 = 0 + 2/2 - 5 = -4,  d1 = -1 + 5/2 - 1 = 1/2,
    A2 = -4,  A1 = 1/2 - 1 = -1/2.
    """
    rewards = torch.tensor([0.0, 1.0, 4.0, -1.0, 0.0])
    values = torch.tensor([1.0, 2.0, 3.0, 1.0, 5.0])
    advantages, returns = gae(rewards, values, torch.tensor([0.0, 2.0]), torch.tensor([3, 2]), 0.5, 0.5)
    assert advantages.tolist() == [3 / 16, 3 / 4, 1.0, -1 / 2, -4.0]
    assert returns.tolist() == [1 + 3 / 16, 2.75, 4.0, 0.5, 1.0]


def plain_gae(rewards, values, after, gamma, lam):
    """The sum over all that follows, as the paper writes it."""
    following = [*values[1:], after]
    deltas = [r + gamma * v2 - v for r, v, v2 in zip(rewards, values, following, strict=True)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 1.0), (0.7, 0.0), (1.0, 1.0)])
def test_gae_is_the_sum_of_the_paper_for_answers_of_any_lengths(gamma, lam):
    draw, lengths = torch.Generator().manual_seed(0), (4, 1, 7, 2)
    rewards, values = torch.randn(2, sum(lengths), generator=draw, dtype=torch.float64)
    after = torch.randn(len(lengths), generator=draw, dtype=torch.float64)
    found, returns = gae(rewards, values, after, torch.tensor(lengths), gamma, lam)
    split = (x.split(lengths) for x in (rewards, values))
    expected = [
        a
        for r, v, end in zip(*split, after, strict=True)
        for a in plain_gae(r.tolist(), v.tolist(), end.item(), gamma, lam)
    ]
    assert found.tolist() == pytest.approx(expected)
    assert torch.allclose(returns, found + values)


def test_without_discount_and_with_full_trust_returns_are_what_is_still_earned():
    rewards, values = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([7.0, -1.0, 0.5])
    _, returns = gae(rewards, values, torch.zeros(1), torch.tensor([3]), 1.0, 1.0)
    assert returns.tolist() == close([6.0, 5.0, 3.0])


def test_whitened():
    assert whitened(torch.tensor([1.0, 3.0])).tolist() == close([-1.0, 1.0])
    many = whitened(torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 5 + 2)
    assert float(many.mean()) == close(0.0)
    assert float(many.var(correction=0)) == close(1.0)


def test_what_is_equal_is_not_blown_up_to_noise():
    assert whitened(torch.full((37,), 0.3)).abs().max() < 1e-2
    assert whitened(torch.tensor([5.0])).tolist() == [0.0]
    for reward in (0.1, 1000.1, -3e7 / 7):
        rewards, group = torch.full((6,), reward), torch.tensor([0, 1, 0, 1, 0, 0])
        assert group_advantages(rewards, group).tolist() == [0.0] * 6
        assert leave_one_out(rewards, group).tolist() == [0.0] * 6


def test_group_advantages_by_hand():
    """Rewards 1 and 3 have the mean 2 and, of a sample, the deviation sqrt 2; 0, 0 and 3 have 1 and sqrt 3."""
    rewards, group = torch.tensor([1.0, 0.0, 3.0, 0.0, 9.0, 3.0]), torch.tensor([0, 2, 0, 2, 1, 2])
    two, three = math.sqrt(2) + 1e-4, math.sqrt(3) + 1e-4
    assert group_advantages(rewards, group).tolist() == close([-1 / two, -1 / three, 1 / two, -1 / three, 0, 2 / three])
    assert group_advantages(rewards, group, scale=False).tolist() == close([-1, -1, 1, -1, 0, 2])
    spread = torch.tensor([1.0, 3.0]).std()  # torch's own default, which TRL takes
    assert group_advantages(torch.tensor([1.0, 3.0]), torch.tensor([0, 0]))[1] == close(float(1 / (spread + 1e-4)))


def test_leave_one_out_by_hand():
    rewards, group = torch.tensor([1.0, 4.0, 3.0, 0.0, 9.0, 5.0]), torch.tensor([0, 2, 0, 2, 1, 2])
    assert leave_one_out(rewards, group).tolist() == close([-2, 4 - 2.5, 2, 0 - 4.5, 0, 5 - 2])


@pytest.mark.parametrize("of", [group_advantages, leave_one_out])
def test_a_constant_in_every_reward_of_a_group_changes_nothing(of):
    rewards, group = torch.tensor([1.0, 2.0, 6.0, -1.0]), torch.tensor([0, 0, 0, 1])
    assert torch.allclose(of(rewards, group), of(rewards + 8.0, group))
    assert of(rewards, group).sum() == pytest.approx(0.0, abs=1e-6)


RATIOS = {  # ratio, advantage -> loss, its derivative with respect to the log-ratio, held back
    (1.0, 2.0): (-2.0, -2.0, 0),
    (1.1, 2.0): (-2.2, -2.2, 0),
    (1.5, 2.0): (-2.6, 0.0, 1),  # has gone up far enough
    (0.5, 2.0): (-1.0, -1.0, 0),  # went the wrong way, and may come back
    (0.5, -2.0): (1.4, 0.0, 1),
    (1.5, -2.0): (3.0, 3.0, 0),
    (0.9, -2.0): (1.8, 1.8, 0),
    (1.5, 0.0): (0.0, 0.0, 0),
}


@pytest.mark.parametrize(("ratio", "advantage"), RATIOS)
def test_the_surrogate_inside_and_outside_its_clip(ratio, advantage):
    x = torch.tensor([math.log(ratio)], requires_grad=True)
    losses, held = clipped_surrogate(x, torch.tensor([advantage]), below=0.3, above=0.3)
    losses.sum().backward()
    assert (losses.item(), x.grad.item(), held.item()) == close(RATIOS[ratio, advantage])


def test_the_clip_may_be_wider_above():
    x, up = torch.tensor([1.25, 1.35, 0.75]).log(), torch.tensor([1.0, 1.0, -1.0])
    losses, held = clipped_surrogate(x, up, below=0.2, above=0.3)
    assert losses.tolist() == close([-1.25, -1.3, 0.8])
    assert held.tolist() == [0, 1, 1]


VALUES = {  # value, old, return -> loss, derivative
    (1.1, 1.0, 2.0): (0.5 * 0.81, -0.9),  # near the old value: the plain error
    (1.8, 1.0, 2.0): (0.5 * 0.64, 0.0),  # held at 1.2: its error is the larger one, and nothing more is learnt
    (0.5, 1.0, 2.0): (0.5 * 2.25, -1.5),  # went the wrong way: the larger error is its own
    (3.0, 1.0, 1.1): (0.5 * 3.61, 1.9),
}


@pytest.mark.parametrize(("value", "old", "wanted"), VALUES)
def test_the_value_loss_inside_and_outside_its_clip(value, old, wanted):
    v = torch.tensor([value], requires_grad=True)
    loss = clipped_value(v, torch.tensor([old]), torch.tensor([wanted]), 0.2)
    loss.sum().backward()
    assert (loss.item(), v.grad.item()) == close(VALUES[value, old, wanted])


def distributions(seed):
    return torch.randn(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)


@pytest.mark.parametrize("seed", range(3))
def test_k3_is_never_negative_and_its_mean_is_the_kl(seed):
    policy, reference = distributions(seed)
    each = k3(policy, reference)
    assert (each >= 0).all()
    exact = (policy.exp() * (policy - reference)).sum()
    assert float((policy.exp() * each).sum()) == pytest.approx(float(exact), rel=1e-12)
    assert float((policy.exp() * (policy - reference)).sum()) > 0 > float((policy - reference).min())


def test_k3_of_equals_is_nothing_and_flat():
    logps = torch.tensor([-0.5, -20.0], requires_grad=True)
    found = k3(logps, logps.detach())
    found.sum().backward()
    assert found.tolist() == logps.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("far", [30.0, 1e4, 1e30])
def test_log_ratios_without_bound_stay_finite(far):
    x = torch.tensor([far, -far], requires_grad=True)
    for advantage, estimate in itertools.product((3.0, -3.0), (k3, lambda a, b: k3(b, a))):
        losses, _ = clipped_surrogate(log_ratio(x, torch.zeros(2)), torch.full((2,), advantage), 0.2, 0.2)
        (gradient,) = torch.autograd.grad((losses + estimate(x, torch.zeros(2))).sum(), x)
        assert bool(losses.isfinite().all() and gradient.isfinite().all())


def test_the_mean_of_what_lies_ahead():
    rewards = torch.tensor([1.0, 2.0, 4.0, 7.0, 5.0, 3.0])
    assert mean_ahead(rewards, torch.tensor([3, 1, 2])).tolist() == [3.0, 4.0, 0.0, 0.0, 3.0, 0.0]


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert float(explained_variance(returns, returns)) == close(1.0)
    assert float(explained_variance(returns + 5, returns)) == close(1.0)  # a constant error explains no variance
    assert float(explained_variance(torch.full((4,), 3.0), returns)) == close(0.0)
    assert float(explained_variance(-returns, returns)) == close(-3.0)
    assert math.isfinite(float(explained_variance(returns, torch.ones(4))))


def test_the_price_of_kl_follows_its_target():
    def after(kl, n=100):
        return adapted(0.1, kl=kl, target=5.0, n=n, horizon=1000)

    assert after(5.0) == 0.1
    assert after(5.5) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert after(4.5) == pytest.approx(0.1 * (1 - 0.1 * 0.1))
    assert after(50.0) == after(6.1) == pytest.approx(0.1 * 1.02)  # an error of more than a fifth counts as one
    assert after(-50.0) == pytest.approx(0.1 * 0.98)  # a mean of samples may be negative
    assert after(50.0, n=200) == pytest.approx(0.1 * 1.04)
    assert after(50.0, n=0) == 0.1
    assert after(0.0, n=10**6) == pytest.approx(0.08)  # many answers beyond the horizon: a price stays one
