"""SmoothQuant: weights and inputs in 8 bits, once the outliers of inputs are shared with the weights (Xiao et al. 2022, arXiv
2211.10438).

    W x = (W diag(s)) (diag(s)^-1 x)        s_j = max |x_j|^a / max |W_:j|^(1-a)        (`functional/scaling.py`)

Inputs are rounded while the model computes, each token with one scale (W8A8): a single large input of a token would leave few
steps for all others. diag(s)^-1 goes into whatever writes the inputs, wherever the model allows it (`engine/scaling.py`), so
also before the last matrix of a layer, where the paper leaves them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from posttrain.engine.quantising import Bits
from posttrain.engine.scaling import Scaled, Scaling
from posttrain.functional.scaling import smooth_scales
from posttrain.models.inputs import Inputs


class SmoothQuant(Scaling):
    """Round weights and inputs to 8 bits, with the outliers of inputs moved into the weights."""

    alpha: float = Field(0.5, ge=0, le=1)
    """How much of what is difficult goes into the weights; more where inputs have larger outliers, up to about 0.8."""
    bits: Bits = 8
    """Bits of each weight."""
    group: int | None = Field(None, ge=1)
    """Columns of a matrix that share a scale; `null` gives a whole row one scale, as rounded inputs need."""
    activations: Literal[8] | None = 8
    """Bits that inputs are rounded to while the model computes; `null` leaves them as they are."""

    def scaled(self, *how: Any) -> Scaled:
        return replace(Smoothed(*how), alpha=self.alpha)


@dataclass(frozen=True)
class Smoothed(Scaled):
    """Scales that make weights and inputs equally hard to round."""

    alpha: float = 0.5

    def scales(self, names: Sequence[str], weights: Sequence[Tensor], inputs: Inputs) -> Tensor | None:
        largest = inputs.largest_of(names)
        return None if largest is None else smooth_scales(weights, largest, self.alpha)
