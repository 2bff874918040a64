"""What rounding each matrix of a model alone loses: KL divergence from the model at every token of texts that were put aside.

    loss(b) = KL(probe) |W - round_b(W)|^2 / |W - round_probe(W)|^2

Small changes lose in proportion to their square, and only small losses add up over matrices. So each matrix is rounded to PROBE bits
alone and measured, and what other numbers of bits lose follows from how far they round. Shapes: N texts of T tokens, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from posttrain.functional.budget import Option
from posttrain.functional.divergence import Head, token_divergence
from posttrain.functional.rounding import Integers, fit, nearest
from posttrain.models.matrices import units_in
from posttrain.schema.errors import ModelError

from .checkpoint import read_whole, write_whole
from .job import Job

AT_ONCE = 4  # texts
PROBE = 4  # bits


@dataclass(frozen=True)
class Aside:
    """Texts that were put aside, (N, T) ids, with what a model's head reads of them, (N, T, D)."""

    ids: Tensor
    states: Tensor
    head: Any

    @classmethod
    @torch.no_grad()
    def of(cls, weights: Any, ids: Tensor) -> "Aside":
        """Raises ModelError for a head that is more than a matrix, as one that bounds its logits."""
        states = torch.cat([_states(weights, some) for some in ids.split(AT_ONCE)])
        found = cls(ids, states, weights.get_output_embeddings())
        logits = weights(input_ids=ids[:1]).logits[0]
        if not torch.allclose(found._head(states[:1]).part(slice(None)), logits, rtol=1e-3, atol=1e-3):
            raise ModelError(
                f"The head of {type(weights).__name__} is more than a matrix, so what a mixture loses cannot be measured here. "
                "Choose the bits yourself: `gptq`, with `overrides`."
            )
        return found

    @torch.no_grad()
    def kl(self, weights: Any) -> float:
        """Mean divergence from the model to another one with the same head, in nats a token."""
        found = [
            token_divergence(self._head(_states(weights, ids)), self._head(states))
            for ids, states in zip(self.ids.split(AT_ONCE), self.states.split(AT_ONCE), strict=True)
        ]
        return float(torch.cat(found).mean())

    def _head(self, states: Tensor) -> Head:
        return Head(states.flatten(0, 1), self.head.weight, getattr(self.head, "bias", None))


@torch.no_grad()
def _states(weights: Any, ids: Tensor) -> Tensor:
    """(n, T, D): what the head reads."""
    states: Tensor = weights.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return states


@torch.no_grad()
def sensitivities(weights: Any, aside: Aside, grids: Mapping[int, Integers], job: Job) -> dict[str, list[Option]]:
    """For each matrix, or all experts of a layer, and number of bits its bytes, and what rounding it alone loses. What is known is
    on the disk, one by one."""
    path = job.scratch / "sensitivities.pt"
    known: dict[str, float] = read_whole(path) or {}
    alike = units_in(weights)
    probe = replace(next(iter(grids.values())), bits=PROBE)
    found: dict[str, list[Option]] = {}
    for done, (name, matrices) in enumerate(alike.items(), 1):
        before = [matrix.weight.clone() for matrix in matrices.values()]
        if name not in known:
            for matrix in matrices.values():
                matrix.weight.copy_(_rounded(matrix.weight, probe))
            known[name] = max(aside.kl(weights), 0.0)  # rounding of floats may leave less than nothing
            for matrix, weight in zip(matrices.values(), before, strict=True):
                matrix.weight.copy_(weight)
            write_whole(path, known)
        per_square = known[name] / max(_moved(before, probe), 1e-30)
        found[name] = [
            Option(bits, sum(stored_bytes(weight, grid) for weight in before), per_square * _moved(before, grid))
            for bits, grid in grids.items()
        ]
        job.emit("progress", step=done, of=len(alike))
    return found


def _moved(weights: Sequence[Tensor], grid: Integers) -> float:
    """How far some matrices round: the sum of squares."""
    return sum(float((weight - _rounded(weight, grid)).square().sum()) for weight in weights)


def _rounded(weight: Tensor, grid: Integers) -> Tensor:
    return nearest(weight, grid, fit(weight, grid, torch.ones_like(weight[0]))).dense()


def stored_bytes(weight: Tensor, grid: Integers) -> float:
    """Bytes of a matrix with its scales, and its zeros where there are any."""
    rows, columns = weight.shape
    groups = columns // (grid.group or columns)
    zeros = 0 if grid.symmetric else grid.bits / 8
    return rows * (columns * grid.bits / 8 + groups * (grid.dtype.itemsize + zeros))
