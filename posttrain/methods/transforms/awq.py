"""AWQ: weights that meet large inputs are made larger before they are rounded, and the inputs smaller (Lin et al. 2023,
arXiv 2306.00978).

    W x = (W diag(s)) (diag(s)^-1 x)        s chosen for the least change of what is computed (`functional/scaling.py`)

diag(s)^-1 goes into whatever writes the inputs: a norm, or the matrix before. Where that is, is tried out on the model itself
(`models/folding.py`); matrices whose inputs nothing can scale are rounded as they are, and named.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from posttrain.engine.calibrating import Calibrated, calibration
from posttrain.engine.job import Job
from posttrain.engine.layerwise import Told, compress, heard
from posttrain.engine.method import Made
from posttrain.engine.quantising import Quantising
from posttrain.engine.solving import Matrices
from posttrain.functional.rounding import DAMP, nearest, output_error
from posttrain.functional.scaling import awq_scales
from posttrain.models.blocks import Block, Blocks
from posttrain.models.folding import Fold, fold, folds
from posttrain.models.inputs import Groups, Inputs
from posttrain.models.matrices import decoder
from posttrain.models.precision import device


class AWQ(Calibrated, Quantising):
    """Round to integers of few bits, with finer steps for the weights that meet large inputs."""

    search: bool = True
    """Look for narrower scales that lower the error, AWQ's clipping; without, the largest weight of a group sets its scale."""
    solver: Literal["nearest", "gptq"] = "nearest"
    """How scaled weights are rounded; `gptq` lets later weights make up for earlier ones as well."""
    correct: float = Field(0.5, ge=0, le=1)
    """With `solver: gptq`, how much of what rounding lost before a matrix it makes up for."""

    def run(self, job: Job, **inputs: Any) -> Made:
        model = inputs["model"]
        weights = decoder(model, "quantised")
        grids = self.grids(weights)
        ids = calibration(self, model, inputs["data"], job)
        how = (DAMP, self.correct) if self.solver == "gptq" else (None, 0)
        solver = Scaled(grids, self.search, *how)
        parts, told = compress(weights, ids, solver, device(), job)
        return self.write(job, model, weights, grids, parts, told)


@dataclass(frozen=True)
class Scaled(Matrices):
    """Scales inputs, then rounds."""

    def begin(self, block: Block, blocks: Blocks, of: Groups) -> Mapping[str, Told]:
        inputs, some, linears = heard(blocks, block, of), blocks.some(), block.linears()
        errors = {name: self._nearest(name, linears[name].weight, inputs) for name in self.grids if name in linears}
        scaled = {
            name for one in folds(block, of, some) if self._folded(block, one, inputs, some) for name in one.readers
        }
        return {
            name: Told(name, error, error, 0, note="" if name in scaled else "its inputs are not scaled")
            for name, error in errors.items()
        }

    def _nearest(self, name: str, weight: Tensor, inputs: Inputs) -> float:
        """The error of rounding a matrix as it is."""
        gram = inputs.of(name)[0]
        return 0.0 if gram is None else output_error(weight, nearest(weight, self.grids[name]).dense(), gram)

    def _folded(self, block: Block, one: Fold, inputs: Inputs, some: Tensor) -> bool:
        """Whether the inputs of matrices that read the same are scaled now."""
        gram = inputs.together(list(one.readers))
        if gram is None or not set(one.readers) <= set(self.grids):
            return False
        weights = [linear.weight for linear in one.readers.values()]
        return fold(block, one, awq_scales(weights, gram, [self.grids[name] for name in one.readers]), some)
