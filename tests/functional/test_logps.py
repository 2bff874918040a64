"""Chunked log-probabilities are the plain ones: values and gradients, at every chunk size, kept or computed again."""

import math

import pytest
import torch

from posttrain.functional.logps import plain_logps, token_logps

N, D, V = 11, 5, 23


def problem(with_bias: bool):
    draw = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64, requires_grad=True)

    hidden, weight = normal(N, D), normal(V, D)
    targets = torch.randint(V, (N,), generator=draw)
    weights_N = torch.randn(N, generator=draw, dtype=torch.float64)
    return hidden, weight, targets, normal(V) if with_bias else None, weights_N


def test_two_words_by_hand():
    # z = (0, log 3): p = (1/4, 3/4)
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3)]])
    assert token_logps(hidden, weight, torch.tensor([1])).item() == pytest.approx(math.log(3 / 4))
    assert token_logps(hidden, weight, torch.tensor([0])).item() == pytest.approx(math.log(1 / 4))


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
@pytest.mark.parametrize("keep_bytes", [0, 1 << 20])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_plain_in_value_and_gradient(chunk, keep_bytes, with_bias):
    hidden, weight, targets, bias, weights_N = problem(with_bias)
    inputs = [x for x in (hidden, weight, bias) if x is not None]
    logits = hidden @ weight.t() + (0 if bias is None else bias)
    plain = plain_logps(logits, targets)
    chunked = token_logps(hidden, weight, targets, bias, chunk=chunk, keep_bytes=keep_bytes)
    assert torch.allclose(plain, chunked, atol=1e-12)
    wanted = torch.autograd.grad((plain * weights_N).sum(), inputs)
    got = torch.autograd.grad((chunked * weights_N).sum(), inputs)
    for a, b in zip(wanted, got, strict=True):
        assert (a - b).abs().max() < 1e-12


def test_gradient_agrees_with_finite_differences():
    hidden, weight, targets, bias, _ = problem(True)
    assert torch.autograd.gradcheck(lambda h, w, b: token_logps(h, w, targets, b, chunk=4), (hidden, weight, bias))


def test_no_tokens_is_no_error():
    hidden, weight, targets, _, _ = problem(False)
    found = token_logps(hidden[:0], weight, targets[:0])
    found.sum().backward()
    assert found.shape == (0,)


def test_frozen_head_gets_no_gradient():
    hidden, weight, targets, _, _ = problem(False)
    token_logps(hidden, weight.detach(), targets).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_whole_logits_are_never_held():
    """The largest tensor made on the way has a chunk's rows, not all of them."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            seen.extend(x.numel() for x in (out if isinstance(out, tuple | list) else [out]) if torch.is_tensor(x))
            return out

    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(1000, 4, requires_grad=True)
    with Watch():
        token_logps(hidden, weight, torch.zeros(64, dtype=torch.long), chunk=8, keep_bytes=0).sum().backward()
    assert max(seen) <= 8 * 1000
