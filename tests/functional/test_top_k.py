"""The divergence from the likeliest tokens: by hand, all of it with the whole vocabulary, its slope, and what it is not."""

import math
from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck

from posttrain.functional.divergence import Head, plain_divergence, token_divergence
from posttrain.functional.top_k import TopK, exact, top_k

P = torch.tensor([[0.5, 0.2, 0.2, 0.1]], dtype=torch.float64)
Q = torch.tensor([[0.4, 0.3, 0.1, 0.2]], dtype=torch.float64)


def test_by_hand():
    """Two of four tokens are known, and the others have 0.3 together, of which the policy gives one twice the other."""
    known = top_k(P.log(), 2)
    assert known.ids[0, 0] == 0
    known = TopK(torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.2]]).log().double(), torch.tensor([0.3]).log().double())
    z = Q.log().requires_grad_()
    found = plain_divergence(z, known)
    by_hand = 0.5 * math.log(0.5 / 0.4) + 0.2 * math.log(0.2 / 0.3) + 0.3 * math.log(0.3 / 0.3)
    assert found.item() == pytest.approx(by_hand, rel=1e-6)
    found.sum().backward()
    slope = [0.4 - 0.5, 0.3 - 0.2, 0.1 - 0.3 * 0.1 / 0.3, 0.2 - 0.3 * 0.2 / 0.3]
    assert z.grad[0].tolist() == pytest.approx(slope, abs=1e-7)


def test_numbers_of_the_likeliest():
    logits = torch.tensor([[0.1, 0.6, 0.05, 0.25]]).log() + 3
    found = top_k(logits, 2)
    assert found.ids.tolist() == [[1, 3]]
    assert found.logps[0].exp().tolist() == pytest.approx([0.6, 0.25])
    assert found.rest.exp().item() == pytest.approx(0.15)
    whole = top_k(logits, 9)
    assert whole.ids.shape == (1, 4) and whole.rest.item() == -math.inf


def test_what_was_rounded_sums_to_one_again():
    rough = top_k(torch.randn(5, 40, generator=torch.Generator().manual_seed(1)), 8)
    rough = TopK(rough.ids, rough.logps.half().float(), rough.rest.half().float())
    again = exact(rough)
    assert torch.allclose(again.logps.exp().sum(-1) + again.rest.exp(), torch.ones(5), atol=1e-6)
    assert (again.logps - rough.logps).abs().max() < 2e-3


@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("keep_bytes", [0, 1 << 30])
def test_chunks_give_the_slope_of_the_definition(k, keep_bytes):
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias, other = (
        torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((7, 5), (30, 5), (30,), (7, 30))
    )
    known = top_k(other, k)
    inputs = [x.requires_grad_() for x in (hidden, weight, bias)]

    def of(*parts):
        return token_divergence(Head(*parts), known, chunk=3, keep_bytes=keep_bytes)

    assert torch.allclose(of(*inputs), plain_divergence(hidden @ weight.t() + bias, known))
    assert gradcheck(of, inputs)


@pytest.mark.parametrize("logits", [torch.randn(6, 50), 40 * torch.randn(6, 50)])
def test_it_is_the_whole_divergence_with_all_tokens_and_less_with_fewer(logits):
    other = torch.randn(6, 50, generator=torch.Generator().manual_seed(3)) * 2
    whole = plain_divergence(logits, other)
    found = [plain_divergence(logits, top_k(other, k)) for k in (1, 4, 20, 50)]
    assert torch.allclose(found[-1], whole, rtol=1e-4)
    for less, more in pairwise(found):
        assert bool((less <= more + 1e-4 * more.abs()).all())


def test_a_policy_that_is_as_sure_as_the_reference_is_left_alone_and_renormalising_makes_it_surer():
    """The reference gives 0.7 to two tokens, and the policy just what the reference gives. Of a reference that was made to
    sum to 1 over the two the slope pushes both up, by 0.5 / 0.7 - 0.5 and 0.2 / 0.7 - 0.2, at the cost of the others."""
    z = P.log().requires_grad_()
    known = TopK(torch.tensor([[0, 1]]), P[:, :2].log(), torch.tensor([0.3], dtype=torch.float64).log())
    plain_divergence(z, known).sum().backward()
    assert z.grad.abs().max() < 1e-12
    z = P.log().requires_grad_()
    renormalised = TopK(known.ids, (P[:, :2] / 0.7).log(), torch.tensor([-math.inf], dtype=torch.float64))
    plain_divergence(z, renormalised).sum().backward()
    assert z.grad[0].tolist() == pytest.approx([0.5 - 0.5 / 0.7, 0.2 - 0.2 / 0.7, 0.2, 0.1])


def test_a_rest_that_the_policy_has_all_but_forgotten_has_a_slope():
    """exp of the log ratio of the rests would be infinite."""
    z = torch.tensor([[0.0, -200.0, -201.0]]).requires_grad_()
    known = TopK(torch.tensor([[0]]), torch.tensor([[math.log(0.5)]]), torch.tensor([math.log(0.5)]))
    found = token_divergence(Head(z, torch.eye(3)), known)
    found.sum().backward()
    share = 1 / (1 + math.e)
    assert found.item() == pytest.approx(0.5 * math.log(0.5) + 0.5 * (math.log(0.5) + 200 - math.log(1 + 1 / math.e)))
    assert z.grad[0].tolist() == pytest.approx([0.5, -0.5 * (1 - share), -0.5 * share], rel=1e-5)
