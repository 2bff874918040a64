"""Orthogonal subspace fine-tuning (Nayak et al. 2025, arXiv 2504.07097), PEFT's OSF, for models that must not forget.

    W = U S V^T = (strong directions, frozen) + (weak directions, trained)

The strong part carries most of what the model knows. Gradients of the weak U and V are projected away from it, so that
a plain step is orthogonal to every strong direction; AdamW rescales it number by number, so with it that holds only
roughly. Trained are all weak directions: far more weights than LoRA has.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import nn

from posttrain.schema.errors import ModelError

from .family import Family, head_of, target_modules, task_of

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


class OSF(Family):
    """Changes of linear layers that leave their strongest directions alone."""

    times: ClassVar[float] = 10.0  # a step in U moves W in proportion to a small S

    kept: float = Field(0.5, ge=0.1, le=0.99)
    """Share of every layer's singular directions, the strongest first, that stays as it is; more forgets less."""
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the layers to adapt, or `all-linear`."""

    def config(self, model: "PreTrainedModel") -> "PeftConfig":
        from peft import OSFConfig
        from transformers.pytorch_utils import Conv1D

        if any(isinstance(module, Conv1D) for module in model.modules()):
            raise ModelError(
                "PEFT takes no orthogonal subspace of this model's layers, which are stored the other way round (Conv1D). "
                "Use `adapter: lora`, or hold on with `keep: {replay: …}`."
            )
        if narrow := [name for name, width in _widths(model) if int(self.kept * width) < 1]:
            raise ModelError(f"{narrow[0]} is too narrow to keep {self.kept:.0%} of its directions. Raise `kept`.")
        return OSFConfig(
            effective_rank=self.kept, target_modules=target_modules(model, self.targets), task_type=task_of(model)
        )


def _widths(model: "PreTrainedModel") -> Iterator[tuple[str, int]]:
    """The number of singular directions of every linear layer but the head."""
    head = head_of(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            yield name, min(module.weight.shape)
