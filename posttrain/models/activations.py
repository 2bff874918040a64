"""What a forward pass keeps for the backward pass: less of it, or in another memory. Neither changes a gradient.

Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): a layer keeps its input alone and is computed again when
its gradient is due: one forward pass more, and of L layers only one at a time holds all that it needs. transformers
does this for layers in training mode alone, which turns dropout on; here each layer is wrapped and the model stays as
it is. Inputs need no gradient of their own, so that adapters learn on frozen embeddings.

Offloading: what is kept moves to the memory of the machine until it is asked for.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from posttrain.schema.errors import MachineError, ModelError

from . import attention
from .adapters.active import active, answering

LEAST_BYTES = 1 << 20  # a smaller tensor is not worth the way


def checkpoint_layers(model: nn.Module) -> int:
    """Makes every layer keep its input alone; returns how many there are. Raises ModelError where there is none."""
    found = [module for _, module in layers(model)]
    for layer in found:
        layer.forward = _computed_again(layer.forward, model)
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no layers that can be computed again. Leave `gradient_checkpointing` out, and "
            "lower `micro_tokens` instead."
        )
    return len(found)


def layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What transformers marks as the repeated layers of a model, by name."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer))


def _computed_again(forward: Callable[..., Any], model: nn.Module) -> Callable[..., Any]:
    @wraps(forward)
    def layer(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if type(kwargs.get("past_key_values")).__name__ == "DynamicCache":
            raise ModelError(
                "Prefix-tuning this model goes through a cache that grows with every call, and layers cannot be "
                "computed again on it. Leave `gradient_checkpointing` out, or write `adapter: lora`."
            )
        plan, adapter = attention.plan_in_use(), active(model)

        def again(*args: Any, **kwargs: Any) -> Any:
            # the backward pass comes when the forward pass's plan is gone, and another adapter may answer
            with attention.packed_as(plan), answering(model, adapter):
                return forward(*args, **kwargs)

        return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return layer


def require_offloading(where: torch.device) -> None:
    """Raises MachineError where activations are in the memory of the machine already."""
    if where.type != "cuda":
        raise MachineError(
            f"`offload_activations` moves activations out of the memory of a GPU, and this model is on {where.type}. "
            "Leave it out; `gradient_checkpointing: true` or a smaller `micro_tokens` saves memory here."
        )


def offloaded(parameters: Iterable[Tensor], least_bytes: int = LEAST_BYTES) -> saved_tensors_hooks:
    """Within: large tensors that are kept for the backward pass wait in the memory of the machine. Weights stay."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def put(x: Tensor) -> Tensor | tuple[torch.device, Tensor]:
        if x.numel() * x.element_size() < least_bytes or x.untyped_storage().data_ptr() in weights:
            return x
        away = torch.empty(x.shape, dtype=x.dtype, pin_memory=x.is_cuda)
        return x.device, away.copy_(x, non_blocking=x.is_cuda)

    def get(kept: Tensor | tuple[torch.device, Tensor]) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept[1].to(kept[0], non_blocking=True)

    return saved_tensors_hooks(put, get)
