"""Universal Logit Distillation: by hand, chunks against the definition, and groups by the chain rule."""

import pytest
import torch
from torch.autograd import gradcheck

from posttrain.functional.divergence import Head
from posttrain.functional.uld import Groups, Merged, groups_apart, sorted_apart


def test_by_hand():
    """Sorted, 0.6 0.3 0.1 beside 0.5 0.4 0.08 0.02."""
    q, p = torch.tensor([[0.1, 0.6, 0.3]]), torch.tensor([[0.4, 0.02, 0.5, 0.08]])
    assert sorted_apart(q, p).item() == pytest.approx(0.1 + 0.1 + 0.02 + 0.02)
    assert sorted_apart(p, q).item() == pytest.approx(0.24)
    assert sorted_apart(q, q.flip(-1)).item() == 0


def test_groups_of_spans():
    found = Groups.of_spans(torch.tensor([0, 2, 3]), torch.tensor([1, 2, 6]))
    assert found.ends.tolist() == [1, 2, 6]
    assert found.before.tolist() == [0, 3, 4, 5] and found.of.tolist() == [0, 2, 2, 2]


def test_what_stands_before_is_multiplied_in():
    z = torch.tensor([[0.5, 0.3, 0.2]]).log()
    found = Merged(z, torch.tensor([0.4]).log()).part(slice(None))
    assert found[0].tolist() == pytest.approx([0.2, 0.12, 0.08])


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_give_value_and_slope_of_the_definition(chunk):
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias, before, other = (
        torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((5, 4), (9, 4), (9,), (5,), (5, 13))
    )
    theirs = Merged(other, torch.zeros(5, dtype=torch.float64))

    def of(*parts):
        return groups_apart(Merged(Head(*parts[:3]), -parts[3].exp()), theirs, chunk)

    inputs = [x.requires_grad_() for x in (hidden, weight, bias, before)]
    q = (hidden @ weight.t() + bias).softmax(-1) * (-before.exp()).exp()[:, None]
    assert torch.allclose(of(*inputs), sorted_apart(q, other.softmax(-1)))
    assert gradcheck(of, inputs)
