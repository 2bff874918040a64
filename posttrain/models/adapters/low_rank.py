"""Low-rank adapters: W' = W + s B A, with A (r, in), B (out, r) starting at zero, and s = alpha / r.

LoRA        Hu et al. 2021, arXiv 2106.09685
rsLoRA      s = alpha / sqrt r, so that a higher rank does not learn slower (Kalajdzievski 2023, arXiv 2312.03732)
DoRA        W' = m (W + s B A) / |W + s B A|, column by column, m trained (Liu et al. 2024, arXiv 2402.09353)
PiSSA       B A begins as the first r singular parts of W, and W as the rest (Meng et al. 2024, arXiv 2404.02948)
LoRA+       B learns faster than A (Hayou et al. 2024, arXiv 2402.12354)
QLoRA       W in four bits, NF4, its scales in eight (Dettmers et al. 2023, arXiv 2305.14314)
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .family import NAME, Family, target_modules, task_of

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

START = "_start_of_adapter"  # where the first values of a PiSSA adapter are kept, on the model
TIMES = "_times_rate"  # where LoRA+ says how much faster a parameter learns, on the parameter


class LowRank(Family):
    """Low-rank updates of linear layers."""

    times: ClassVar[float] = 10.0
    grows: ClassVar[bool] = True

    rank: int = Field(16, ge=1)
    """Width of the update; larger learns more and costs more memory."""
    alpha: float | None = Field(None, gt=0)
    """Strength of the update, divided by the rank; twice the rank if not given."""
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the layers to adapt, or `all-linear`."""
    rslora: bool = False
    """Divide the strength by the square root of the rank, so that high ranks learn as fast as low ones."""
    dora: bool = False
    """Learn the length of every output's weights apart from their direction."""
    plus: float | None = Field(None, ge=1)
    """How much faster the second matrix learns than the first (LoRA+), 16 for instance; as fast if not given."""

    def config(self, model: "PreTrainedModel") -> "LoraConfig":
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha or 2 * self.rank,  # type: ignore[arg-type]  # PEFT computes with any number
            target_modules=target_modules(model, self.targets),
            use_rslora=self.rslora,
            use_dora=self.dora,
            task_type=task_of(model),
        )

    def begin(self, adapted: "PeftModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        for name, parameter in adapted.named_parameters():
            if self.plus and "lora_B" in name:
                setattr(parameter, TIMES, self.plus)


class LoRA(LowRank):
    """Low-rank updates of linear layers."""

    init: Literal["zero", "pissa"] = "zero"
    """Begin with no update, or with the strongest parts of the layer itself (PiSSA)."""

    def config(self, model: "PreTrainedModel") -> "LoraConfig":
        config = super().config(model)
        config.init_lora_weights = "pissa" if self.init == "pissa" else True
        return config

    def begin(self, adapted: "PeftModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        super().begin(adapted, tokenizer)
        if self.init == "pissa":
            setattr(adapted, START, {name: p.detach().clone() for name, p in _factors(adapted)})


class QLoRA(LowRank):
    """Low-rank updates of linear layers that are held in four bits."""

    quantises: ClassVar[bool] = True


def _factors(adapted: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((name, p) for name, p in adapted.named_parameters() if f".{NAME}." in name and "lora_" in name)


def start_of(model: nn.Module) -> dict[str, Tensor] | None:
    """The first values of a PiSSA adapter. While it is trained its base holds what is left of the weights without
    them, so the model as it was is not the one with the adapter disabled."""
    return getattr(model, START, None)


def unfolded(adapted: "PeftModel") -> tuple["LoraConfig", dict[str, Tensor]]:
    """A PiSSA adapter as a plain one of twice the rank, on the weights as they were:
    B A - B0 A0 = [B, -B0] [A; A0]. The strength grows with the rank, so that their ratio stays."""
    from dataclasses import replace

    from peft import get_peft_model_state_dict

    start: Any = start_of(adapted)
    state = get_peft_model_state_dict(adapted, adapter_name=NAME, save_embedding_layers=False)
    for name, first in start.items():
        key = name.replace(f".{NAME}.", ".")
        if "lora_A" in name:
            state[key] = torch.cat([state[key], first], 0)
        elif "lora_B" in name:
            state[key] = torch.cat([state[key], -first], 1)
    config: Any = adapted.peft_config[NAME]
    grown = 2**0.5 if config.use_rslora else 2
    return replace(config, r=2 * config.r, lora_alpha=grown * config.lora_alpha, init_lora_weights=True), state


def rate_groups(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Parameters in groups that learn alike, for an optimizer: `times` is each group's multiple of the learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(getattr(parameter, TIMES, 1.0), []).append(parameter)
    return [{"params": members, "times": times} for times, members in groups.items()]
