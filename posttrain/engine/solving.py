"""The matrices of a block, each rounded for what it reads; what cannot be solved is rounded to nearest, and told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from posttrain.functional.polishing import polished
from posttrain.functional.rounding import Grid, Rounded, corrected, damping, fit, gptq, nearest
from posttrain.models.blocks import Block, Blocks
from posttrain.models.inputs import Groups, Inputs
from posttrain.models.rounded_inputs import round_inputs
from posttrain.schema.settings import Settings

from .layerwise import Parts, Told, unheard

TINY = 1e-30
NEAREST = "rounded to nearest: "


class Solved(Settings):
    """What every method can be told that solves matrices by GPTQ."""

    correct: float = Field(0.5, ge=0, le=1)
    """How much of what rounding lost before a matrix GPTQ makes up for; 0 is GPTQ as published, in half the time."""
    polish: int = Field(2, ge=0)
    """How often what GPTQ found is gone over again, integers and scales, each for what all others are by then; 0 is GPTQ as
    published."""


@dataclass(frozen=True)
class Matrices:
    """Rounds to the grids of matrices by their names. `search` looks for narrower scales; `damp` is GPTQ's, and rounding is
    to nearest without it; `correct` is how much of what was lost before a matrix it makes up for, `polish` how often what was
    solved is gone over again. Where `activations` are rounded, what comes behind a matrix reads what it then gives."""

    grids: Mapping[str, Grid]
    search: bool
    damp: float | None
    correct: float = 0
    polish: int = 0
    activations: bool = False

    @property
    def looks_back(self) -> bool:
        return self.correct > 0

    def begin(self, block: Block, blocks: Blocks, of: Groups) -> Mapping[str, Told]:
        return {}

    def solve(self, block: Block, inputs: Inputs) -> tuple[Parts, Sequence[Told]]:
        linears = block.linears()
        parts: dict[str, tuple[Tensor, ...]] = {}
        told: list[Told] = []
        for names in self._alike(inputs.leader):
            found, more = self._together(names, [linears[name].weight for name in names], inputs)
            parts |= dict(zip(names, found, strict=True))
            told += more
        return parts, told

    def _alike(self, leader: Mapping[str, str]) -> list[list[str]]:
        """Matrices that read the same and become the same kind of numbers: one solution holds for all of their rows."""
        found: dict[tuple[str, Grid], list[str]] = {}
        for name, of in leader.items():
            if name in self.grids:
                found.setdefault((of, self.grids[name]), []).append(name)
        return list(found.values())

    def _together(
        self, names: Sequence[str], weights: Sequence[Tensor], inputs: Inputs
    ) -> tuple[Sequence[Rounded], list[Told]]:
        """Matrices of one input, and what became of each."""
        grid, rows = self.grids[names[0]], [len(weight) for weight in weights]
        gram, drift, tokens = inputs.of(names[0])
        weight = torch.cat(list(weights))
        plain = nearest(weight, grid)
        if gram is None or not gram.isfinite().all():
            why = NEAREST + (unheard(tokens, weight.shape[1]) or "it reads what is no number")
            return _split(plain, rows), [Told(name, 0, 0, tokens, why) for name in names]
        whole, before = _sizes(weight, gram, rows), _sizes(weight - plain.dense(), gram, rows)
        few = unheard(tokens, weight.shape[1]) if self.damp is not None else ""
        damp = None if self.damp is None else damping(self.damp, weight.shape[1], tokens)
        if drift is not None and not few:
            weight = corrected(weight, gram, drift, self.correct, damp or 0)
        found = None if few else self._rounded(weight, gram, grid, damp)
        after = before if found is None else _sizes(weight - found.dense(), gram, rows)
        fallback = NEAREST + (few or "what it reads has no inverse") if found is None else ""
        told = [
            Told(name, a / max(size, TINY), b / max(size, TINY), tokens, fallback)
            for name, size, a, b in zip(names, whole, after, before, strict=True)
        ]
        return _split(found or plain, rows), told

    def _rounded(self, weight: Tensor, gram: Tensor, grid: Grid, damp: float | None) -> Rounded | None:
        """A matrix on its grid. None where it cannot be solved."""
        scales = fit(weight, grid, gram.diagonal() if self.search else None)
        if damp is None:
            return nearest(weight, grid, scales)
        found = gptq(weight, gram, grid, damp, scales)
        return found and polished(weight, gram, found, grid, damp, self.polish)

    def put(self, block: Block, parts: Parts) -> None:
        for name, linear in block.linears().items():
            if name in parts:
                linear.weight.copy_(Rounded(*parts[name]).dense())
                if self.activations:
                    round_inputs(linear)


def _sizes(weight: Tensor, gram: Tensor, rows: Sequence[int]) -> list[float]:
    """tr(W G W^T) of each of some matrices that stand one on the other."""
    return [float(part.sum()) for part in ((weight @ gram) * weight).split(list(rows))]


def _split(rounded: Rounded, rows: Sequence[int]) -> list[Rounded]:
    """Matrices that stand one on the other, each by itself."""
    parts = zip(*(x.split(list(rows)) for x in rounded), strict=True)
    return [Rounded(*(x.clone() for x in part)) for part in parts]
