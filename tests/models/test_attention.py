"""Packed attention is dense attention under the mask of the trees: values and gradients, however it is cut into blocks."""

import pytest
import torch

from posttrain.functional.layout import Branch, Segment, Tree, packed
from posttrain.models import attention
from tests import tiny

HEADS, N_KV, WIDTH = 6, 2, 8


def forest(*sizes: tuple[int, ...]) -> list[Tree]:
    """Trees of a prompt and branches of these lengths."""
    return [Tree((1,) * prompt, tuple(Branch((1,) * n, (True,) * n) for n in branches)) for prompt, *branches in sizes]


FORESTS = {
    "short": forest(*[(3, 4)] * 30),
    "long": forest((200, 150)),
    "pairs": forest((40, 130, 20), (7, 5, 9), (300, 3, 2)),
    "many branches": forest((60, *[20] * 16)),
    "drawn": list(tiny.trees(9, 3, seed=5, longest=60)),
}


def mask_of(segments: list[Segment], n_tokens: int) -> torch.Tensor:
    """(T, T): what the segments say, place by place."""
    sees = torch.zeros(n_tokens, n_tokens, dtype=torch.bool)
    for s in segments:
        sees[s.start : s.end, s.prompt_start : s.prompt_end] = True
        sees[s.start : s.end, s.start : s.end] = torch.ones(s.end - s.start, s.end - s.start, dtype=torch.bool).tril()
    return sees


@pytest.fixture(params=FORESTS)
def segments(request):
    return packed(FORESTS[request.param]).segments


def test_equals_dense_attention_in_value_and_gradient(segments):
    n_tokens = segments[-1].end
    draw = torch.Generator().manual_seed(0)
    q, k, v, weights = (
        torch.randn(heads, n_tokens, WIDTH, generator=draw, dtype=torch.float64, requires_grad=True)
        for heads in (HEADS, N_KV, N_KV, HEADS)
    )
    many = [x.repeat_interleave(HEADS // N_KV, 0) for x in (k, v)]
    scores = (0.3 * q @ many[0].mT).masked_fill(~mask_of(segments, n_tokens), float("-inf"))
    dense = scores.softmax(-1) @ many[1]
    found = attention._PackedAttention.apply(q, k, v, 0.3, attention.plan_of(segments))
    assert torch.allclose(found, dense, atol=1e-12)
    wanted = torch.autograd.grad((dense * weights).sum(), (q, k, v))
    for a, b in zip(torch.autograd.grad((found * weights).sum(), (q, k, v)), wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-11)


def test_every_query_is_in_one_block(segments):
    blocks = attention.plan_of(segments).blocks
    assert [place for block in blocks for place in range(block.queries.start, block.queries.stop)] == list(
        range(segments[-1].end)
    )


def test_short_segments_share_blocks_and_long_ones_are_cut():
    shared = attention.plan_of(packed(FORESTS["short"]).segments).blocks
    assert len(shared) < 10
    cut = attention.plan_of(packed(FORESTS["long"]).segments).blocks
    assert len(cut) > 1
    assert sum(block.bias.numel() for block in cut) < 0.7 * 350**2
