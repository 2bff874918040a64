"""Merge an adapter into the weights it sits on, so that any program can load the model.

LoRA's update is a matrix, so it adds to the layer's own: W' = W + (alpha / r) B A (Hu et al. 2021, arXiv 2106.09685);
IA3's scales multiply its rows or columns. Virtual tokens are read before every text and are in no weight: they cannot
be merged. A base in four bits is merged as what it computes with, its rounded weights, so nothing is rounded again.
"""

from pathlib import Path
from typing import Any, ClassVar

from posttrain.engine.job import Job
from posttrain.engine.method import Made, Transform
from posttrain.models import adapters
from posttrain.models.drawn import difference, drawn_logits
from posttrain.models.four_bits import is_in_four_bits
from posttrain.models.load import load_rounded, load_tokenizer, load_weights, save_weights
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
        before = drawn_logits(adapted)
        merged = load_rounded(model, adapted) if is_in_four_bits(adapted) else adapted
        merged = merged.merge_and_unload()
        moved = difference(before, drawn_logits(merged))
        save_weights(merged, load_tokenizer(model), job.folder, source=model)
        job.note(f"logits differ by at most {moved['logits_largest']:.1e} from those with the adapter")
        return Made({"base": model.base, "difference": moved})
