"""What rounding each matrix of a model alone loses: KL divergence from the model at the tokens that rows put aside teach.

    loss(b) = KL(probe) |W - round_b(W)|^2 / |W - round_probe(W)|^2

Small changes lose in proportion to their square, and only small losses add up over matrices. So each matrix is rounded to a probe
of four bits alone and measured, and what other ways to store it lose follows from how far they round, whatever format they are of.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree, split_by_tokens
from posttrain.functional.rounding import Grid, fit, nearest
from posttrain.models.expected import Expected
from posttrain.models.matrices import units_in
from posttrain.models.policy import Policy
from posttrain.schema.errors import ModelError

from .checkpoint import read_whole, write_whole
from .job import Job


@dataclass(frozen=True)
class Aside:
    """Rows that were put aside, as batches, with what a model expects at each token that they teach: those of answers, or of
    whole texts."""

    batches: tuple[Batch, ...]
    expected: tuple[Expected, ...]
    layout: str
    tokenizer: Any

    @classmethod
    @torch.no_grad()
    def of(cls, weights: Any, tokenizer: Any, trees: Sequence[Tree]) -> "Aside":
        """Raises ModelError for a head that is more than a matrix, as one that bounds its logits."""
        policy = Policy(weights, tokenizer)
        if policy.layout == "logits":
            raise ModelError(
                f"The head of {type(weights).__name__} is more than a matrix, so what a mixture loses cannot be measured here. "
                "Choose the bits yourself: `gptq`, with `overrides`."
            )
        batches = tuple(
            Batch(tuple(trees[row] for row in rows)) for rows in split_by_tokens(trees, policy.micro_tokens)
        )
        return cls(batches, tuple(policy.expects(batch.trees) for batch in batches), policy.layout, tokenizer)

    @property
    def n_tokens(self) -> int:
        """How many tokens are looked at."""
        return sum(len(each.answers) for each in self.expected)

    @torch.no_grad()
    def kl(self, weights: Any) -> float:
        """Mean divergence from the model to another one, in nats a token."""
        policy = Policy(weights, self.tokenizer, layout=self.layout)
        found = [
            policy.expects(batch.trees).divergence(theirs)
            for batch, theirs in zip(self.batches, self.expected, strict=True)
        ]
        return float(torch.cat(found).double().mean())


@torch.no_grad()
def sensitivities(weights: Any, aside: Aside, probe: Grid, job: Job) -> dict[str, float]:
    """For each matrix, or all experts of a layer, what rounding it to the `probe` alone loses, for each square that its weights
    move. What is known is on the disk, one by one."""
    path = job.scratch / "sensitivities.pt"
    known: dict[str, float] = read_whole(path) or {}
    units = units_in(weights)
    found: dict[str, float] = {}
    for done, (name, matrices) in enumerate(units.items(), 1):
        before = {each: matrix.weight.clone() for each, matrix in matrices.items()}
        if name not in known:
            for matrix in matrices.values():
                matrix.weight.copy_(_rounded(matrix.weight, probe))
            known[name] = max(aside.kl(weights), 0.0)  # rounding of floats may leave less than nothing
            for each, matrix in matrices.items():
                matrix.weight.copy_(before[each])
            write_whole(path, known)
        found[name] = known[name] / max(moved(before.values(), probe), 1e-30)
        job.emit("progress", step=done, of=len(units))
    return found


@torch.no_grad()
def moved(weights: Iterable[Tensor], grid: Grid) -> float:
    """The squares that the weights of some matrices move by when they are rounded to a grid."""
    return sum(float((weight - _rounded(weight, grid)).square().sum()) for weight in weights)


def _rounded(weight: Tensor, grid: Grid) -> Tensor:
    return nearest(weight, grid, fit(weight, grid, torch.ones_like(weight[0]))).dense()
