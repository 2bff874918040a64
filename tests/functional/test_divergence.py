"""Divergences by hand, and the chunked one against its definition, gradients included."""

import math

import pytest
import torch

from posttrain.functional.divergence import Head, plain_divergence, token_divergence

DIRECTIONS = ("forward", "reverse")


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
@pytest.mark.parametrize("direction", DIRECTIONS)
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


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_finite_differences(direction) -> None:
    policy, reference = heads()
    assert torch.autograd.gradcheck(
        lambda *tensors: token_divergence(Head(*tensors), reference, direction, chunk=2), tuple(policy)
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
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
