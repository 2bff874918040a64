"""The matrices of a decoder's layers: what every compression changes, and what it needs of a model before it begins."""

from typing import Any

import torch
from torch import nn

from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError

from .activations import layers
from .load import load_weights


def decoder(model: Model, done: str) -> Any:
    """The weights of a model in the machine's memory, for something to be `done` to them. Raises ModelError where there is
    an encoder, and for weights that are infinite or no numbers."""
    weights: Any = load_weights(model, at=torch.device("cpu"))
    if weights.config.is_encoder_decoder:
        raise ModelError(f"{model.path} has an encoder and a decoder, and only decoders are {done}. Name a decoder.")
    for name, x in weights.named_parameters():
        if not x.isfinite().all():
            raise ModelError(
                f"{name} holds weights that are infinite or no numbers, so nothing can be solved for it. Go back to the last "
                "model that answers, and train it with a lower learning rate."
            )
    return weights


def matrices_in(weights: nn.Module) -> dict[str, nn.Linear]:
    """The matrices of a model's layers by name. Raises ModelError where there is none."""
    found = {
        f"{layer}.{name}": module
        for layer, block in layers(weights)
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    }
    if not found:
        raise ModelError(
            f"The layers of {type(weights).__name__} hold no plain matrix: GPT-2 and its like keep theirs transposed. Write "
            "`gguf: {types: [q8_0]}`, or name a Llama, Mistral, Qwen, Gemma or Phi."
        )
    return found


def others_in(weights: nn.Module) -> list[str]:
    """What else of the layers is as large as a matrix, and in none: the experts of a mixture, which stand in one block."""
    held = {id(module.weight) for module in matrices_in(weights).values()}
    return [
        f"{layer}.{name}"
        for layer, block in layers(weights)
        for name, x in block.named_parameters()
        if x.dim() > 1 and id(x) not in held
    ]
