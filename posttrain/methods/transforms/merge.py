"""Merge an adapter into the weights it sits on, so that any program can load the model.

LoRA's update is a matrix, so it adds to the layer's own: W' = W + (alpha / r) B A (Hu et al. 2021, arXiv 2106.09685).
"""

from typing import Any, ClassVar

from posttrain.engine.job import Job
from posttrain.engine.method import Made, Transform
from posttrain.models.load import load_tokenizer, load_weights, save_weights
from posttrain.schema.artifacts import Model


class Merge(Transform):
    """Turn an adapter and its base into one dense model."""

    accepts: ClassVar[frozenset[str]] = frozenset({"adapter"})

    def makes_form(self, form: str) -> str:
        return "dense"

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        adapted: Any = load_weights(model)
        merged = adapted.merge_and_unload()
        save_weights(merged, load_tokenizer(model), job.folder, source=model)
        return Made({"base": model.base})
