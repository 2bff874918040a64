"""Pruning: make a share of the weights of each matrix zero, those that are missed least.

    magnitude   |w|                   looks at no data
    wanda       |w| sqrt(G_jj)        Sun et al. 2023, arXiv 2306.11695
    sparsegpt   w^2 / U_jj^2          Frantar and Alistarh 2023, arXiv 2301.00774; the others are changed to make up for it

G = sum over tokens of x x^T, and U^T U = (G + lambda I)^-1 (`functional/sparsity.py`). Layers go in order, each looked at with what
it reads once all before it are pruned. The model stays dense and as large: zeros are for programs that skip them, and few do; heal
it with `distill`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from posttrain.engine.calibrating import Calibrated, calibration
from posttrain.engine.job import Job
from posttrain.engine.layerwise import Parts, Told, compress, tell_what_is_left, unheard, write_report
from posttrain.engine.method import Made, Transform
from posttrain.functional.rounding import DAMP, corrected, damping, output_error
from posttrain.functional.sparsity import magnitude, sparsegpt, wanda
from posttrain.models.blocks import Block, Blocks
from posttrain.models.experts import put_together
from posttrain.models.inputs import Groups, Inputs
from posttrain.models.load import load_tokenizer, save_weights
from posttrain.models.matrices import decoder, matrices_in
from posttrain.models.precision import device
from posttrain.schema.errors import UsageError


class Prune(Calibrated, Transform):
    """Make a share of the weights zero."""

    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[str]] = frozenset({"dense"})

    sparsity: float = Field(0.5, gt=0, lt=1)
    """Share of the weights of each matrix that become zero."""
    of: int | None = Field(None, ge=2)
    """Hold the share within every so many neighbours of a row: `sparsity: 0.5` and `of: 4` is 2:4; anywhere if not given."""
    by: Literal["magnitude", "wanda", "sparsegpt"] = "sparsegpt"
    """How the weights are chosen: by their size, by their size and that of their inputs, or so that others can make up for
    them."""
    correct: float = Field(0.5, ge=0, le=1)
    """With `by: sparsegpt`, how much of what pruning lost before a matrix it makes up for."""

    @model_validator(mode="after")
    def _only_sparsegpt_makes_up(self) -> "Prune":
        if self.by != "sparsegpt" and "correct" in self.model_fields_set:
            raise ValueError(f"`correct` does nothing to `by: {self.by}`: write `by: sparsegpt`, or leave it out")
        return self

    @model_validator(mode="after")
    def _share_of_whole_weights(self) -> "Prune":
        zeros = self.sparsity * (self.of or 0)
        if self.of and (zeros != round(zeros) or not 0 < zeros < self.of):
            raise ValueError(
                f"`sparsity: {self.sparsity}` of every {self.of} weights is {zeros:g}, no whole number of them: write "
                f"`sparsity: {max(1, min(self.of - 1, round(zeros))) / self.of:g}`, or leave `of` out"
            )
        return self

    def run(self, job: Job, **inputs: Any) -> Made:
        model = inputs["model"]
        weights = decoder(model, "pruned")
        matrices = matrices_in(weights)
        uneven = [name for name, matrix in matrices.items() if matrix.in_features % (self.of or 1)]
        if uneven:
            raise UsageError(
                f"The {matrices[uneven[0]].in_features} columns of {uneven[0]} are no whole number of {self.of}. Leave `of` "
                "out, or name one that divides them."
            )
        ids = calibration(self, model, inputs["data"], job)
        _, told = compress(weights, ids, Cut(self), device(), job)
        zeros = sum(int(matrix.weight.eq(0).sum()) for matrix in matrices.values())
        size = sum(matrix.weight.numel() for matrix in matrices.values())
        left = tell_what_is_left(job, weights, told)
        put_together(weights)
        save_weights(weights, load_tokenizer(model), job.folder, source=model)
        write_report(job.folder, told)
        facts = {
            "matrices": len(matrices),
            "zeros": zeros / size,
            "error": fmean(each.error for each in told),
            "left": left,
        }
        return Made(facts | {"fallback": {each.name: each.fallback for each in told if each.fallback}})


@dataclass(frozen=True)
class Cut:
    """Prunes the matrices of a block."""

    how: Prune

    @property
    def looks_back(self) -> bool:
        return self.how.by == "sparsegpt" and self.how.correct > 0

    def begin(self, block: Block, blocks: Blocks, of: Groups) -> Mapping[str, Told]:
        return {}

    def solve(self, block: Block, inputs: Inputs) -> tuple[Parts, Sequence[Told]]:
        linears = block.linears()
        found = {name: self._one(name, linears[name].weight, inputs) for name in inputs.leader}
        return {name: (weight,) for name, (weight, _) in found.items()}, [told for _, told in found.values()]

    def _one(self, name: str, weight: Tensor, inputs: Inputs) -> tuple[Tensor, Told]:
        share, of = self.how.sparsity, self.how.of
        gram, drift, tokens = inputs.of(name)
        plain = magnitude(weight, share, of)
        few = unheard(tokens, weight.shape[1]) if gram is None or self.how.by == "sparsegpt" else ""
        if gram is None or not gram.isfinite().all():
            return plain, Told(name, 0, 0, tokens, f"cut by magnitude: {few or 'it reads what is no number'}")
        before = output_error(weight, plain, gram)
        if few:
            return plain, Told(name, before, before, tokens, f"cut by magnitude: {few}")
        damp = damping(DAMP, weight.shape[1], tokens)
        if drift is not None:
            weight = corrected(weight, gram, drift, self.how.correct, damp)
        found = self._cut(weight, gram, damp)
        if found is None:
            return plain, Told(name, before, before, tokens, "cut by magnitude: what it reads has no inverse")
        return found, Told(name, output_error(weight, found, gram), before, tokens)

    def _cut(self, weight: Tensor, gram: Tensor, damp: float) -> Tensor | None:
        share, of = self.how.sparsity, self.how.of
        if self.how.by == "magnitude":
            return magnitude(weight, share, of)
        return wanda(weight, gram, share, of) if self.how.by == "wanda" else sparsegpt(weight, gram, share, of, damp)

    def put(self, block: Block, parts: Parts) -> None:
        for name, linear in block.linears().items():
            if name in parts:
                linear.weight.copy_(parts[name][0])
