"""Adapters through PEFT: a few trainable weights beside the frozen ones.

LoRA (Hu et al. 2021, arXiv 2106.09685): W' = W + (alpha / r) B A, with A (r, in) and B (out, r), B starting at zero.
"""

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from posttrain.schema.settings import Settings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

NAME = "default"


class LoRA(Settings):
    """Low-rank updates of the linear layers."""

    rank: int = Field(16, ge=1)
    """Width of the update; larger learns more and costs more memory."""
    alpha: float | None = Field(None, gt=0)
    """Strength of the update, divided by the rank; twice the rank if not given."""
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the layers to adapt, or `all-linear`."""


class Adapter(Settings):
    """Which adapter to train instead of all weights."""

    lora: LoRA = LoRA()
    """Settings of LoRA."""


def attach(model: "PreTrainedModel", adapter: Adapter, seed: int) -> "PeftModel":
    """The model with a fresh adapter, which alone is trainable."""
    from peft import LoraConfig, TaskType, get_peft_model

    lora = adapter.lora
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha or 2 * lora.rank,  # type: ignore[arg-type]  # PEFT computes with any number
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        task_type=TaskType.CAUSAL_LM,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)
