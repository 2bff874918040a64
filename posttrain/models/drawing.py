"""A token from what a model says of all tokens: the likeliest, or one drawn by a uniform number.

    the token where the summed probability passes u times the whole,  u in [0, 1)

Large vocabularies are looked through in two steps, blocks of tokens first, as sums and searches over all of them would
take longer than the model's own head. Below a `top_p` of 1 tokens are summed from the likeliest on, and no more of them
are sorted than are needed.

Shapes: n answers, V tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128  # tokens
SORTED = (64, 1024)  # how many of the likeliest tokens are tried before all are sorted


def likeliest(logits: Tensor) -> Tensor:
    """(n, V) -> (n,): the first of the likeliest tokens."""
    blocks = _blocks(logits, -torch.inf)
    block = blocks.amax(-1).argmax(-1)
    return block * BLOCK + _within(blocks, block).argmax(-1)


def drawn(probabilities: Tensor, uniform: Tensor, top_p: float = 1.0) -> Tensor:
    """(n, V) in fp32, (n,) in fp64 -> (n,): a token each; among the likeliest that together hold `top_p`."""
    if top_p < 1:
        return _drawn_from_likeliest(probabilities, uniform, top_p)
    blocks = _blocks(probabilities, 0)
    block, rest = _passed(blocks.sum(-1), uniform)
    return block * BLOCK + _passed(_within(blocks, block), rest)[0]


def _drawn_from_likeliest(probabilities: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    n_tokens = probabilities.shape[1]
    tokens, left = torch.empty_like(uniform, dtype=torch.long), torch.arange(len(uniform), device=uniform.device)
    for n in (*(n for n in SORTED if n < n_tokens), n_tokens):
        sorted_, ids = probabilities[left].double().topk(n)
        summed = sorted_.cumsum(-1)
        place, _ = _passed(sorted_ * (summed - sorted_ < top_p), uniform[left])
        enough = summed[:, -1] >= (top_p if n < n_tokens else 0)
        tokens[left[enough]] = ids.gather(1, place[:, None])[enough, 0]
        left = left[~enough]
        if not len(left):
            break
    return tokens


def _passed(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """(n, m), (n,) -> the place in each row where the summed weight passes u times the whole, and how much of that place's
    own weight lies below, as a share: a uniform number again."""
    summed = weights.double().cumsum(-1)
    wanted = uniform[:, None] * summed[:, -1:]
    place = torch.searchsorted(summed, wanted, right=True).clamp(max=weights.shape[1] - 1)
    weight = weights.gather(1, place).double()
    share = (wanted - (summed.gather(1, place) - weight)) / weight
    return place[:, 0], share[:, 0].clamp(0, 1 - 2**-53)


def _blocks(x: Tensor, fill: float) -> Tensor:
    """(n, V) -> (n, blocks, BLOCK)."""
    more = -x.shape[1] % BLOCK
    return (F.pad(x, (0, more), value=fill) if more else x).view(len(x), -1, BLOCK)


def _within(blocks: Tensor, block: Tensor) -> Tensor:
    """(n, blocks, BLOCK), (n,) -> (n, BLOCK): the block of each row."""
    return blocks.gather(1, block[:, None, None].expand(-1, 1, BLOCK))[:, 0]
