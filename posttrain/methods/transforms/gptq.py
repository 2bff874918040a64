"""GPTQ: round the matrices of a model so that what each layer computes changes least (Frantar et al. 2022, arXiv
2210.17323).

    min over q of  tr(D G D^T),    D = W - (s q + o),  G = sum over tokens of x x^T

Column after column, those first whose inputs are largest; the columns to come make up for each one's error
(`functional/rounding.py`), and then all are gone over again for what the others became (`functional/polishing.py`). Layers are solved in order, from what they read once all before them are rounded. Where G has no
inverse, as when few tokens reach a matrix, it is rounded to nearest and the report says so.
"""

from typing import Any, ClassVar

from pydantic import Field

from posttrain.engine.calibrating import Calibrated, calibration
from posttrain.engine.job import Job
from posttrain.engine.layerwise import compress
from posttrain.engine.method import Made
from posttrain.engine.quantising import Quantising
from posttrain.engine.solving import Matrices, Solved
from posttrain.functional.rounding import DAMP
from posttrain.models.matrices import decoder
from posttrain.models.precision import device


class GPTQ(Calibrated, Solved, Quantising):
    """Round to integers of few bits, later weights making up for the errors of earlier ones."""

    version: ClassVar[int] = 2

    damp: float = Field(DAMP, gt=0)
    """How much is added to the diagonal of G, as a share of its mean, so that it has an inverse; raised by itself where it is
    too little, and where tokens are few for the columns."""
    search: bool = True
    """Look for narrower scales that lower the error; without, the largest weight of a group sets its scale."""

    def run(self, job: Job, **inputs: Any) -> Made:
        model = inputs["model"]
        weights = decoder(model, "quantised")
        grids = self.grids(weights)
        ids = calibration(self, model, inputs["data"], job)
        solver = Matrices(grids, self.search, self.damp, self.correct, self.polish, bool(self.activations))
        parts, told = compress(weights, ids, solver, device(), job)
        return self.write(job, model, weights, grids, parts, told)
