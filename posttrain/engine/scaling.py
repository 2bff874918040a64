"""Methods that scale what the matrices of a block read before they are rounded, and fold the scales into whatever writes it.

    W x = (W diag(s)) (diag(s)^-1 x)        a method says which s (`functional/scaling.py`)

Where a scale can go is tried out on the model itself (`models/folding.py`); matrices whose inputs nothing can scale are rounded
as they are, and named.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import model_validator
from torch import Tensor

from posttrain.functional.rounding import DAMP, nearest, output_error
from posttrain.models.blocks import Block, Blocks
from posttrain.models.folding import Fold, fold, folds
from posttrain.models.inputs import Groups, Inputs
from posttrain.models.matrices import decoder
from posttrain.models.precision import device

from .calibrating import Calibrated, calibration
from .job import Job
from .layerwise import Told, compress, heard
from .method import Made
from .quantising import Quantising
from .solving import Matrices, Solved


@dataclass(frozen=True)
class Scaled(Matrices):
    """Scales inputs, then rounds."""

    @abstractmethod
    def scales(self, names: Sequence[str], weights: Sequence[Tensor], inputs: Inputs) -> Tensor | None:
        """(C,): what the inputs that some matrices (R, C) share are divided by; None to leave them as they are."""

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
        names = list(one.readers)
        if not set(names) <= set(self.grids):
            return False
        scales = self.scales(names, [linear.weight for linear in one.readers.values()], inputs)
        return scales is not None and fold(block, one, scales, some)


class Scaling(Calibrated, Solved, Quantising):
    """What every method can be told that scales inputs."""

    search: bool = True
    """Look for narrower scales that lower the error, AWQ's clipping; without, the largest weight of a group sets its scale."""
    solver: Literal["nearest", "gptq"] = "nearest"
    """How scaled weights are rounded; `gptq` lets later weights make up for earlier ones as well."""

    @model_validator(mode="after")
    def _gptq_has_its_options_alone(self) -> "Scaling":
        idle = sorted(Solved.model_fields.keys() & self.model_fields_set)
        if self.solver == "nearest" and idle:
            raise ValueError(f"`{idle[0]}` does nothing to `solver: nearest`: add `solver: gptq`, or leave it out")
        return self

    def run(self, job: Job, **inputs: Any) -> Made:
        model = inputs["model"]
        weights = decoder(model, "quantised")
        grids = self.grids(weights)
        ids = calibration(self, model, inputs["data"], job)
        how = (DAMP, self.correct, self.polish) if self.solver == "gptq" else (None, 0, 0)
        solver = self.scaled(grids, self.search, *how, bool(self.activations))
        parts, told = compress(weights, ids, solver, device(), job)
        return self.write(job, model, weights, grids, parts, told)

    @abstractmethod
    def scaled(self, *how: Any) -> Scaled:
        """What scales and rounds, from the arguments of `Matrices`."""
