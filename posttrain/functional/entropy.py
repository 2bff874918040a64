"""How open a model's next token is: the entropy of its distribution, exact over the whole vocabulary.

    H_n = - sum_v p_v log p_v = log Z - sum_v p_v z_v,      p = softmax(z), Z = sum_v exp z_v, z = h W^T + b

Shapes: N tokens, V vocabulary. The (N, V) matrix never exists whole: tokens go through the head in chunks.
"""

import torch
from torch import Tensor

from .divergence import Head
from .logps import CHUNK_ELEMENTS, CHUNK_ELEMENTS_ON_CPU, SHORTEST_CHUNK


@torch.no_grad()
def token_entropies(before: Head | Tensor, chunk: int | None = None) -> Tensor:
    """The entropy at each token, (N,), in nats, at least fp32; of hidden states with their head, or of logits (N, V)."""
    if isinstance(before, Tensor):
        return _entropies(before if before.dtype == torch.float64 else before.float())
    elements = CHUNK_ELEMENTS_ON_CPU if before.hidden.device.type == "cpu" else CHUNK_ELEMENTS
    chunk = chunk or max(SHORTEST_CHUNK, elements // len(before.weight))
    parts = [slice(start, start + chunk) for start in range(0, len(before.hidden), chunk)]
    return torch.cat([_entropies(before.part(of)) for of in parts])


def _entropies(logits_NV: Tensor) -> Tensor:
    logps = logits_NV.log_softmax(-1)
    return torch.special.entr(logps.exp()).sum(-1)
