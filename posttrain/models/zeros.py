"""Zeros of a pruned model that training leaves where they are.

dL/dw := dL/dw [w != 0]        AdamW's moments of such a weight stay 0, and decay takes nothing from it
"""

from collections.abc import Callable

from torch import Tensor, nn

from posttrain.schema.errors import ModelError

from .adapters import is_adapted
from .matrices import weights_in


def hold_zeros(model: nn.Module) -> int:
    """Lets no weight of a layer's matrices learn that is zero; how many there are. Raises ModelError where there is none."""
    found = [] if is_adapted(model) else weights_in(model)
    for weight in found:
        weight.register_hook(_where_not_zero(weight))
    n_zeros = sum(int(weight.eq(0).sum()) for weight in found)
    if not n_zeros:
        raise ModelError(
            "`keep: {zeros: true}` has nothing to keep: no weight that is trained is zero. Prune first, train all weights and no "
            "adapter, or leave it out."
        )
    return n_zeros


def _where_not_zero(weight: Tensor) -> Callable[[Tensor], Tensor]:
    def masked(gradient: Tensor) -> Tensor:
        return gradient * weight.ne(0)

    return masked
