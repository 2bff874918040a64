"""Merge an adapter into the weights it sits on, so that any program can load the model.

LoRA's update is a matrix, so it adds to the layer's own: W' = W + (alpha / r) B A (Hu et al. 2021, arXiv 2106.09685);
IA3's scales multiply its rows or columns. Virtual tokens are read before every text and are in no weight: they cannot
be merged. A base in four bits is merged as what it computes with, its rounded weights, so nothing is rounded again.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from posttrain.engine.job import Job
from posttrain.engine.method import Made, Transform
from posttrain.models import adapters
from posttrain.models.four_bits import is_in_four_bits
from posttrain.models.load import load_rounded, load_tokenizer, load_weights, save_weights
from posttrain.models.vocabulary import n_rows
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError


class Merge(Transform):
    """Turn an adapter and its base into one dense model."""

    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[str]] = frozenset({"adapter"})

    def makes_form(self, form: str) -> str:
        return "dense"

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        if adapters.is_virtual(Path(model.path)):
            raise ModelError(
                f"{model.path} holds virtual tokens, which the model reads before every text: no weight can hold them. "
                "Ship the adapter with its base, or train with `adapter: lora` to merge."
            )
        adapted: Any = load_weights(model)
        before = _logits(adapted)
        merged = load_rounded(model, adapted) if is_in_four_bits(adapted) else adapted
        merged = merged.merge_and_unload()
        difference = _difference(before, _logits(merged))
        save_weights(merged, load_tokenizer(model), job.folder, source=model)
        job.note(f"logits differ by at most {difference['logits_largest']:.1e} from those with the adapter")
        return Made({"base": model.base, "difference": difference})


@torch.no_grad()
def _logits(weights: Any) -> Tensor:
    """(128, V): what the model says after drawn tokens."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(n_rows(weights), (4, 32), generator=draw)
    ids = ids.to(next(weights.parameters()).device)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if weights.config.is_encoder_decoder else {})
    logits: Tensor = weights(**inputs).logits
    return logits.flatten(0, 1).double()


def _difference(before: Tensor, after: Tensor) -> dict[str, float]:
    """How far merging moved the logits, at most and in the mean, and the mean KL divergence in nats."""
    apart = (after - before).abs()
    p, q = before.log_softmax(-1), after.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).mean()
    return {"logits_largest": float(apart.max()), "logits_mean": float(apart.mean()), "kl": float(kl)}
