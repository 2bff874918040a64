"""The matrices of a decoder's layers: what every compression changes, and what it needs of a model before it begins."""

from typing import Any

import torch
from torch import Tensor, nn

from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError

from .activations import layers
from .experts import fused_in, layer_of_experts, linears_in, take_apart
from .load import load_weights


def decoder(model: Model, done: str) -> Any:
    """The weights of a model in the machine's memory, for something to be `done` to them, its experts taken apart. Raises
    ModelError where there is an encoder, and for weights that are infinite or no numbers."""
    weights: Any = load_weights(model, at=torch.device("cpu"))
    if weights.config.is_encoder_decoder:
        raise ModelError(f"{model.path} has an encoder and a decoder, and only decoders are {done}. Name a decoder.")
    for name, x in weights.named_parameters():
        if not x.isfinite().all():
            raise ModelError(
                f"{name} holds weights that are infinite or no numbers, so nothing can be solved for it. Go back to the last "
                "model that answers, and train it with a lower learning rate."
            )
    take_apart(weights)
    return weights


def matrices_in(weights: nn.Module) -> dict[str, nn.Linear]:
    """The matrices of a model's layers by name, but for those that choose experts. Raises ModelError where there is none."""
    found = {name: module for layer, block in layers(weights) for name, module in linears_in(block, layer).items()}
    if not found:
        raise ModelError(
            f"The layers of {type(weights).__name__} hold no plain matrix: GPT-2 and its like keep theirs transposed. Write "
            "`gguf: {types: [q8_0]}`, or name a Llama, Mistral, Qwen, Gemma or Phi."
        )
    return found


def units_in(weights: nn.Module) -> dict[str, dict[str, nn.Linear]]:
    """What may get bits of its own, by name: each matrix by itself, and all experts of a layer together, since programs that
    serve mixtures want one kind of number for all of a layer's."""
    found: dict[str, dict[str, nn.Linear]] = {}
    for name, matrix in matrices_in(weights).items():
        found.setdefault(layer_of_experts(name) or name, {})[name] = matrix
    return found


def weights_in(weights: nn.Module) -> list[Tensor]:
    """The weights of the matrices, and those of experts that stand in one block."""
    fused = [x for module in fused_in(weights).values() for x in module.parameters()]
    return [matrix.weight for matrix in matrices_in(weights).values()] + fused


def others_in(weights: nn.Module) -> list[str]:
    """What else of the layers is as large as a matrix, and none: what chooses experts, and experts that stand in one block and
    could not be taken apart."""
    held = {id(module.weight) for module in weights.modules() if isinstance(module, nn.Linear)}
    return [
        f"{layer}.{name}"
        for layer, block in layers(weights)
        for name, x in block.named_parameters()
        if x.dim() > 1 and id(x) not in held
    ]
