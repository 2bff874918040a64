"""The importance matrix of a model, from the user's rows: which columns rounding should be careful with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from posttrain.functional.ggml_blocks import Array
from posttrain.models.blocks import Blocks
from posttrain.models.importance import Products, mean_squares
from posttrain.models.precision import device
from posttrain.schema.errors import Stopped

from .job import Job


@torch.no_grad()
def importance(job: Job, weights: Any, ids_NT: Tensor) -> dict[str, Array]:
    """The mean square of every input column of the matrices of a model's layers, (C,), by the names of their weights, and (E, C)
    of experts. Raises Stopped between two layers when asked to."""
    found: dict[str, Array] = {}
    silent: list[str] = []
    blocks = Blocks(weights, ids_NT, device())
    for done, block in enumerate(blocks, 1):
        with Products(block.module, block.name) as heard, _one_expert_at_a_time(weights):
            for some, _ in blocks.pairs():
                block(some)
        means, unheard = mean_squares(heard.sums, heard.tokens)
        found, silent = found | means, silent + unheard
        job.emit("progress", step=done, of=len(blocks.blocks))
        if done < len(blocks.blocks) and job.stop():
            raise Stopped(f"Stopped after layer {done} of {len(blocks.blocks)}. Run the same command to begin again.")
    if silent:
        job.note(
            f"no token reached {len(silent)} matrices, all columns of which matter alike: {silent[0]}, … More rows may."
        )
    return found


@contextmanager
def _one_expert_at_a_time(weights: Any) -> Iterator[None]:
    """Within: experts are multiplied with one after another, and not all in one product."""
    before = getattr(weights.config, "_experts_implementation", None)
    if before is None:
        yield
        return
    weights.set_experts_implementation("eager")
    try:
        yield
    finally:
        weights.set_experts_implementation(before)
