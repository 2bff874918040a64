"""Divergences by hand, and the chunked one against its definition, gradients included."""

import math

import pytest
import torch

from posttrain.functional.divergence import (
    Head,
    jensen_shannon,
    plain_divergence,
    skew_forward,
    skew_reverse,
    token_divergence,
)

DIRECTIONS = ("forward", "reverse")
MIXTURES = (jensen_shannon(0.5), jensen_shannon(0.2), skew_forward(0.1), skew_reverse(0.1))
KINDS = (*DIRECTIONS, *MIXTURES)


def test_by_hand() -> None:
    """q = (1/2, 1/2), p = (3/4, 1/4)."""
    q, p = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    assert float(plain_divergence(q, p, "forward")) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(plain_divergence(q, p, "reverse")) == pytest.approx(-0.5 * math.log(1.5) - 0.5 * math.log(0.5))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_derivative_by_hand(direction) -> None:
    """With the head the identity, hidden states are logits. Forward: q - p. Reverse: q (log q/p - KL), whose parts are
    +-1/4 log 3 as log q/p = log 2/3 or log 2, and KL their mean."""
    z = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    p = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    token_divergence(Head(z, eye), Head(p, eye), direction).sum().backward()
    expected = {"forward": 0.25, "reverse": 0.25 * math.log(3.0)}[direction]
    assert z.grad.tolist()[0] == pytest.approx([-expected, expected])


EYE = torch.eye(2, dtype=torch.float64)


def of_two(kind) -> tuple[float, list[float]]:
    """A mixture's value and slope in the logits, for q = (1/2, 1/2) and p = (3/4, 1/4)."""
    z = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    p = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    found = token_divergence(Head(z, EYE), Head(p, EYE), kind)
    found.sum().backward()
    return found.item(), z.grad.tolist()[0]


def test_jensen_shannon_by_hand() -> None:
    """m = (5/8, 3/8). Its slope in q is log(q / m) / 2, so that in the logits is q_1 q_2 (g_1 - g_2), and minus that."""
    of_p = 0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)
    of_q = 0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3)
    value, slope = of_two(jensen_shannon(0.5))
    assert value == pytest.approx((of_p + of_q) / 2)
    expected = (math.log(4 / 5) - math.log(4 / 3)) / 2 / 4
    assert slope == pytest.approx([expected, -expected])


def test_skew_by_hand() -> None:
    """s = 1/2 on either side gives the same m = (5/8, 3/8). Slopes in q: -p / 2m = (-3/5, -1/3) forward, and
    log(q / m) - q / 2m = (log 4/5 - 2/5, log 4/3 - 2/3) in reverse."""
    value, slope = of_two(skew_forward(0.5))
    assert value == pytest.approx(0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3))
    assert slope == pytest.approx([(-3 / 5 + 1 / 3) / 4, (3 / 5 - 1 / 3) / 4])
    value, slope = of_two(skew_reverse(0.5))
    assert value == pytest.approx(0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3))
    expected = (math.log(4 / 5) - math.log(4 / 3) - 2 / 5 + 2 / 3) / 4
    assert slope == pytest.approx([expected, -expected])


@pytest.mark.parametrize(
    ("mixture", "times", "direction"),
    [
        (skew_forward(1e-6), 1, "forward"),
        (skew_reverse(1e-6), 1, "reverse"),
        (jensen_shannon(1e-6), 1e-6, "forward"),
        (jensen_shannon(1 - 1e-6), 1e-6, "reverse"),
    ],
)
def test_where_mixtures_end(mixture, times, direction) -> None:
    policy, reference = (x.part(slice(None)) for x in heads())
    ours, theirs = (plain_divergence(policy, reference, kind) for kind in (mixture, direction))
    assert torch.allclose(ours, times * theirs, rtol=1e-3)


def test_jensen_shannon_is_symmetric_at_a_half_and_never_above_log_2() -> None:
    policy, reference = (50 * x.part(slice(None)) for x in heads())
    one, other = (plain_divergence(*both, jensen_shannon(0.5)) for both in ((policy, reference), (reference, policy)))
    assert torch.allclose(one, other)
    assert one.max() <= math.log(2) + 1e-9


@pytest.mark.parametrize("kind", MIXTURES)
def test_mixtures_stay_finite_where_models_have_nothing_in_common(kind) -> None:
    eye = torch.eye(3)
    states = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    found = token_divergence(Head(states, eye), Head(torch.tensor([[0.0, 200.0, 0.0]]), eye), kind)
    found.sum().backward()
    assert 0 < found.item() < 10 and bool(states.grad.isfinite().all())


def heads(dtype=torch.float64, bias: bool = True) -> tuple[Head, Head]:
    """Five tokens; the reference is wider than the policy, as nothing asks for the same width."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for width in (4, 6):
        shapes = ((5, width), (11, width), (11,))
        tensors = [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes]
        made.append(Head(*tensors[: 3 if bias else 2]))
    for tensor in made[0]:
        if tensor is not None:
            tensor.requires_grad_()
    return made[0], made[1]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("keep_bytes", [0, 1 << 20])
@pytest.mark.parametrize("chunk", [1, 2, 100])
@pytest.mark.parametrize("direction", KINDS)
def test_chunks_agree_with_the_definition(direction, chunk: int, keep_bytes: int, bias: bool) -> None:
    policy, reference = heads(bias=bias)
    scale = torch.arange(1.0, 6.0, dtype=torch.float64)
    inputs = [x for x in policy if x is not None]
    found = token_divergence(policy, reference, direction, chunk=chunk, keep_bytes=keep_bytes)
    whole = plain_divergence(*(x.part(slice(None)) for x in (policy, reference)), direction)
    assert torch.allclose(found, whole, atol=1e-12)
    ours = torch.autograd.grad((found * scale).sum(), inputs)
    theirs = torch.autograd.grad((whole * scale).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("direction", KINDS)
def test_finite_differences(direction) -> None:
    policy, reference = heads()
    assert torch.autograd.gradcheck(
        lambda *tensors: token_divergence(Head(*tensors), reference, direction, chunk=2), tuple(policy)
    )


@pytest.mark.parametrize("direction", KINDS)
def test_nothing_between_equal_models_and_no_gradient(direction) -> None:
    policy, _ = heads(torch.float32)
    found = token_divergence(policy, Head(*(x.detach().clone() for x in policy)), direction)
    found.sum().backward()
    assert found.abs().max() < 1e-6
    assert policy.hidden.grad.abs().max() < 1e-6


def test_narrow_numbers_are_summed_in_wide_ones() -> None:
    policy, reference = heads(torch.bfloat16)
    found = token_divergence(policy, reference)
    exact = token_divergence(*(Head(*(x.detach().double() for x in head)) for head in (policy, reference)))
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), exact, rtol=0.05, atol=0.05)


def test_a_token_of_no_probability_stays_finite() -> None:
    eye = torch.eye(3)
    policy, reference = torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([[0.0, 200.0, 0.0]])
    found = [token_divergence(Head(a, eye), Head(b, eye)) for a, b in ((policy, reference), (policy, policy))]
    assert found[0].item() == pytest.approx(200.0)
    assert found[1].item() == 0.0
