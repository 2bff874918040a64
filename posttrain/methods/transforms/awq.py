"""AWQ: weights that meet large inputs are made larger before they are rounded, and the inputs smaller (Lin et al. 2023,
arXiv 2306.00978).

    W x = (W diag(s)) (diag(s)^-1 x)        s chosen for the least change of what is computed (`functional/scaling.py`)

diag(s)^-1 goes into whatever writes the inputs: a norm, or the matrix before. Where that is, is tried out on the model itself
(`engine/scaling.py`); matrices whose inputs nothing can scale are rounded as they are, and named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from posttrain.engine.scaling import Scaled, Scaling
from posttrain.functional.scaling import awq_scales
from posttrain.models.inputs import Inputs


class AWQ(Scaling):
    """Round to integers of few bits, with finer steps for the weights that meet large inputs."""

    version: ClassVar[int] = 2

    def scaled(self, *how: Any) -> Scaled:
        return ByError(*how)


@dataclass(frozen=True)
class ByError(Scaled):
    """Scales that change least."""

    def scales(self, names: Sequence[str], weights: Sequence[Tensor], inputs: Inputs) -> Tensor | None:
        gram = inputs.together(names)
        return None if gram is None else awq_scales(weights, gram, [self.grids[name] for name in names])
