"""Which texts mean nearly the same, as a model reads them.

A text is the mean of its tokens' last hidden states, less the mean over all texts: what all share says nothing. Two texts are
alike where the cosine of their vectors is at least a threshold.

Shapes: N texts, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from posttrain.data.inert import encode

from .policy import Policy

AT_ONCE = 32


@torch.no_grad()
def vectors(policy: Policy, texts: Sequence[str]) -> Tensor:
    """(N, D): what each text means, of length 1."""
    rows = [_read(policy, texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)]
    found = torch.cat(rows).double()
    return torch.nn.functional.normalize(found - found.mean(0), dim=-1)


def repeats(vectors_ND: Tensor, threshold: float) -> list[bool]:
    """Whether each text is alike to an earlier one that is no repetition itself."""
    kept: list[int] = []
    found = []
    for n, vector in enumerate(vectors_ND):
        alike = bool(kept) and float((vectors_ND[kept] @ vector).max()) >= threshold
        found.append(alike)
        if not alike:
            kept.append(n)
    return found


def _read(policy: Policy, texts: Sequence[str]) -> Tensor:
    """(texts, D)"""
    most = max(1, policy.context)
    ids = [(encode(policy.tokenizer, text) or [policy.pad_id])[:most] for text in texts]
    width = max(map(len, ids))
    tokens = torch.tensor([row + [policy.pad_id] * (width - len(row)) for row in ids], device=policy.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=policy.device)
    with policy.precision(), policy.answering():
        states = policy.model(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
