"""Round-to-nearest: every weight becomes the closest number that few bits can hold.

    q = round(w / s),    s = max |w| / (2^b - 1) * 2        for each row and group of columns

It looks at no data and takes seconds: the honest baseline of every other way to quantise (Frantar et al. 2022, arXiv
2210.17323, call it so).
"""

from typing import Any

from posttrain.engine.job import Job
from posttrain.engine.method import Made
from posttrain.engine.quantising import Quantising
from posttrain.functional.rounding import nearest
from posttrain.models.matrices import decoder, matrices_in


class RTN(Quantising):
    """Round every weight to the nearest integer of few bits."""

    def run(self, job: Job, **inputs: Any) -> Made:
        model = inputs["model"]
        weights = decoder(model, "quantised")
        grids = self.grids(weights)
        matrices = matrices_in(weights)
        parts = {name: nearest(matrices[name].weight.detach(), grid) for name, grid in grids.items()}
        return self.write(job, model, weights, grids, parts, ())
