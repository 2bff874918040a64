"""Adapters on models: attached, saved, loaded back and counted."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from posttrain.models.vocabulary import make_room, n_rows, token_layers

from .choice import Adapter
from .family import NAME, Family, no_such_layers
from .low_rank import start_of, unfolded

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def attach(
    model: "PreTrainedModel",
    adapter: Adapter | Family,
    tokenizer: "PreTrainedTokenizerBase",
    seed: int,
    new_tokens: Sequence[int] = (),
) -> "PeftModel":
    """The model with a fresh adapter, which alone is trainable, with the rows of `new_tokens`. Raises ModelError where
    the model cannot carry it."""
    from peft import get_peft_model

    family = adapter.family if isinstance(adapter, Adapter) else adapter
    config: Any = family.config(model)
    if new_tokens:
        config.trainable_token_indices = {name: list(new_tokens) for name in token_layers(model)}
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
    rows_of_tokens = {name: rows for name, rows in state.items() if name.endswith("trainable_tokens_delta")}
    state |= {f"{name}.{NAME}": rows for name, rows in rows_of_tokens.items()}  # as PEFT looks for them
    state |= {name: p for name, p in adapted.state_dict().items() if f".modules_to_save.{NAME}." in name}  # a head
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

    grown = getattr(PeftConfig.from_pretrained(str(folder)), "trainable_token_indices", None) or {}
    rows = {id for ids in (grown.values() if isinstance(grown, dict) else [grown]) for id in ids}
    make_room(model, sorted(id for id in rows if id >= n_rows(model)))
    virtual = is_virtual(folder)
    adapted = PeftModel.from_pretrained(model, str(folder), adapter_name=NAME, is_trainable=not virtual)
    if virtual:
        adapted.prompt_encoder[NAME].requires_grad_(True)
    return adapted


def is_virtual(folder: Path) -> bool:
    """Whether the adapter of a folder is one of virtual tokens."""
    from peft import PeftConfig

    return bool(PeftConfig.from_pretrained(str(folder)).is_prompt_learning)


def n_virtual(model: nn.Module, adapter: str | None) -> int:
    """How many virtual tokens an adapter of the model puts before every text."""
    config = getattr(model, "peft_config", {}).get(adapter)
    return config.num_virtual_tokens if config is not None and config.is_prompt_learning else 0


def n_weights(model: nn.Module) -> int:
    """Number of weights; those in four bits are stored two to a byte."""
    return sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in model.parameters())
