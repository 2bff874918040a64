"""The layers of a decoder: how much each changes what goes through it, and the model with some of them alone.

    change of n layers from i on  =  1 - mean over tokens of cos(h_i, h_i+n)          h_i is what layer i reads

For one layer this is block influence (ShortGPT, Men et al. 2024, arXiv 2403.03853).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.schema.errors import ModelError

NO_LAYERS = ("architectures", "token_id", "token_ids")  # how names of lists end that have no entry for each layer


def stack_of(model: Any) -> tuple[nn.Module, str]:
    """The module that holds the layers, and by which name. Raises ModelError where there is no one list of them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    n = model.config.get_text_config().num_hidden_layers
    found = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList)
        and len(child) == n
        and all(isinstance(layer, GradientCheckpointingLayer) for layer in child)
    ]
    if len(found) != 1 or model.config.is_encoder_decoder:
        raise ModelError(
            f"{type(model).__name__} has no single row of layers that some could be left out of. Take a decoder such as a "
            "Llama, Mistral, Qwen, Gemma or GPT-2."
        )
    return found[0]


def layers_of(model: Any) -> nn.ModuleList:
    """The layers in their order."""
    parent, name = stack_of(model)
    layers: nn.ModuleList = getattr(parent, name)
    return layers


def keep(model: Any, kept: Sequence[int]) -> None:
    """Leaves the model with these layers, and its configuration with what it says of them: their number, and every list
    that has an entry for each."""
    parent, name = stack_of(model)
    layers, config = getattr(parent, name), model.config.get_text_config()
    lists = {
        key: value
        for key, value in vars(config).items()
        if isinstance(value, list | tuple) and len(value) == len(layers) and not key.endswith(NO_LAYERS)
    }
    setattr(parent, name, nn.ModuleList([layers[i] for i in kept]))
    config.num_hidden_layers = len(kept)
    for key, value in lists.items():
        setattr(config, key, [value[i] for i in kept])


@torch.no_grad()
def changes(model: Any, texts: Sequence[Sequence[int]], span: int = 1) -> list[float]:
    """How much each run of `span` neighbouring layers changes what goes through it, by the layer that it begins with."""
    n = len(layers_of(model)) + 1 - span
    sums, n_tokens = torch.zeros(n, dtype=torch.float64), 0
    device = next(model.parameters()).device
    for ids in texts:
        with listening(model) as states:
            model(input_ids=torch.tensor([ids], device=device), use_cache=False)
        alike = [F.cosine_similarity(states[i][0].float(), states[i + span][0].float(), dim=-1) for i in range(n)]
        sums += torch.stack([1 - each.sum() / len(ids) for each in alike]).double().cpu() * len(ids)
        n_tokens += len(ids)
    return (sums / n_tokens).tolist()


@contextmanager
def listening(model: Any) -> Iterator[list[Tensor]]:
    """Within: what every layer reads, (1, T, D) each, and after them what the last one writes."""
    layers = layers_of(model)
    states: list[Tensor] = []

    def reads(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def writes(_: nn.Module, args: tuple[Any, ...], made: Any) -> None:
        states.append(made[0] if isinstance(made, tuple) else made)

    hooks = [layer.register_forward_pre_hook(reads, with_kwargs=True) for layer in layers]
    hooks.append(layers[-1].register_forward_hook(writes))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()
