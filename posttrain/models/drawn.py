"""Whether two models say the same: asked after drawn tokens, which no model was made for."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.functional.divergence import plain_divergence
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError

from .load import load_weights
from .vocabulary import n_rows

TEXTS, TOKENS = 4, 48
WRONG = 1e-3  # logits further apart than this, as a share of the largest, are not those of the same model


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


def require_same(expected: Tensor, folder: Path, done: str, why: str) -> None:
    """Raises ModelError where the model of a folder does not say what is expected of what was `done`, and `why` that may be."""
    written = load_weights(Model(folder, ""))
    apart = (drawn_logits(written) - expected.to(next(written.parameters()).device)).abs().max()
    if not apart <= WRONG * expected.abs().max():
        raise ModelError(
            f"{type(written).__name__} {done} does not load as what it was cut to (logits {float(apart):.1e} apart): "
            f"{why}. Take another model."
        )
