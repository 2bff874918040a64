"""The matrices of a block, each rounded for what it reads; what cannot be solved is rounded to nearest, and told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from posttrain.functional.rounding import Grid, Rounded, corrected, fit, gptq, nearest, output_error
from posttrain.models.blocks import Block, Blocks
from posttrain.models.inputs import Groups, Inputs

from .layerwise import Parts, Told

UNREACHED = "rounded to nearest: no token reached it"
NO_INVERSE = "rounded to nearest: what it reads has no inverse"


@dataclass(frozen=True)
class Matrices:
    """Rounds to the grids of matrices by their names. `search` looks for narrower scales; `damp` is GPTQ's, and rounding is
    to nearest without it; `correct` is how much of what was lost before a matrix it makes up for."""

    grids: Mapping[str, Grid]
    search: bool
    damp: float | None
    correct: float = 0

    @property
    def looks_back(self) -> bool:
        return self.correct > 0

    def begin(self, block: Block, blocks: Blocks, of: Groups) -> Mapping[str, Told]:
        return {}

    def solve(self, block: Block, inputs: Inputs) -> tuple[Parts, Sequence[Told]]:
        linears = block.linears()
        found = {name: self._one(name, linears[name].weight, inputs) for name in inputs.leader if name in self.grids}
        return {name: part for name, (part, _) in found.items()}, [told for _, told in found.values()]

    def _one(self, name: str, weight: Tensor, inputs: Inputs) -> tuple[Rounded, Told]:
        """A matrix, and what became of it."""
        grid = self.grids[name]
        gram, drift, tokens = inputs.of(name)
        plain = nearest(weight, grid)
        if gram is None or not gram.isfinite().all():
            return plain, Told(name, 0, 0, tokens, UNREACHED)
        before = output_error(weight, plain.dense(), gram)
        if drift is not None:
            weight = corrected(weight, gram, drift, self.correct, self.damp or 0)
        scales = fit(weight, grid, gram.diagonal() if self.search else None)
        found = nearest(weight, grid, scales) if self.damp is None else gptq(weight, gram, grid, self.damp, scales)
        if found is None:
            return plain, Told(name, before, before, tokens, NO_INVERSE)
        return found, Told(name, output_error(weight, found.dense(), gram), before, tokens)

    def put(self, block: Block, parts: Parts) -> None:
        for name, linear in block.linears().items():
            if name in parts:
                linear.weight.copy_(Rounded(*parts[name]).dense())
