"""Adapters on models: attached, saved, loaded back and counted."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .choice import Adapter
from .family import NAME, Family, no_such_layers
from .low_rank import start_of, unfolded

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def attach(
    model: "PreTrainedModel", adapter: Adapter | Family, tokenizer: "PreTrainedTokenizerBase", seed: int
) -> "PeftModel":
    """The model with a fresh adapter, which alone is trainable. Raises ModelError where the model cannot carry it."""
    from peft import get_peft_model

    family = adapter.family if isinstance(adapter, Adapter) else adapter
    config = family.config(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            if "arget modules" not in str(error):
                raise
            raise no_such_layers(model, getattr(family, "targets", "")) from error
        family.begin(adapted, tokenizer)
    return adapted


def save_adapter(adapted: "PeftModel", folder: Path) -> None:
    """Writes the adapter in PEFT's format, without the embeddings: PEFT would ask the hub whether they changed."""
    options: dict[str, Any] = {"selected_adapters": [NAME], "save_embedding_layers": False}
    if start_of(adapted) is None:
        adapted.save_pretrained(str(folder), **options)
        return
    config, state = unfolded(adapted)
    own = adapted.peft_config[NAME]
    adapted.peft_config[NAME] = config
    try:
        adapted.save_pretrained(str(folder), state_dict=state, **options)
    finally:
        adapted.peft_config[NAME] = own


def reload(model: "PreTrainedModel", folder: Path) -> "PeftModel":
    """The model with the adapter of a folder, trainable. Of P-tuning's network only the embeddings that it made are
    kept, so PEFT must take virtual tokens as they are, which it does for adapters that are not to be trained."""
    from peft import PeftConfig, PeftModel

    virtual = PeftConfig.from_pretrained(str(folder)).is_prompt_learning
    adapted = PeftModel.from_pretrained(model, str(folder), adapter_name=NAME, is_trainable=not virtual)
    if virtual:
        adapted.prompt_encoder[NAME].requires_grad_(True)
    return adapted


def n_virtual(model: nn.Module, adapter: str | None) -> int:
    """How many virtual tokens an adapter of the model puts before every text."""
    config = getattr(model, "peft_config", {}).get(adapter)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0


def n_weights(model: nn.Module) -> int:
    """Number of weights; those in four bits are stored two to a byte."""
    return sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in model.parameters())
