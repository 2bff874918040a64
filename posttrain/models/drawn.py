"""Whether two models say the same: asked after drawn tokens, which no model was made for."""

from typing import Any

import torch
from torch import Tensor

from posttrain.functional.divergence import plain_divergence

from .vocabulary import n_rows

TEXTS, TOKENS = 4, 48


def drawn_ids(n: int) -> Tensor:
    """(TEXTS, TOKENS): drawn texts of a model with `n` tokens, always the same."""
    return torch.randint(n, (TEXTS, TOKENS), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def drawn_logits(weights: Any) -> Tensor:
    """(N, V): what a model says after every token of some drawn texts, the same for every model of so many tokens."""
    ids = drawn_ids(n_rows(weights)).to(next(weights.parameters()).device)
    inputs = {"decoder_input_ids": ids} if weights.config.is_encoder_decoder else {"use_cache": False}
    logits: Tensor = weights(input_ids=ids, **inputs).logits
    return logits.flatten(0, 1).double()


def difference(before: Tensor, after: Tensor) -> dict[str, float]:
    """How far logits went, at most and in the mean, the mean KL divergence in nats, and how often the likeliest token stayed."""
    apart = (after - before).abs()
    return {
        "kl": float(plain_divergence(after, before).mean()),
        "top_1": float((after.argmax(-1) == before.argmax(-1)).double().mean()),
        "logits_largest": float(apart.max()),
        "logits_mean": float(apart.mean()),
    }
