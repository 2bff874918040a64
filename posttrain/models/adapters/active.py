"""Which adapter of a model answers: several may sit on one base, and one of them is active at a time."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeGuard

from torch import nn

if TYPE_CHECKING:
    from peft import PeftModel


def is_adapted(model: nn.Module) -> "TypeGuard[PeftModel]":
    """Whether adapters sit on the model."""
    return hasattr(model, "get_base_model") and hasattr(model, "active_adapter")


def active(model: nn.Module) -> str | None:
    """The adapter that answers when nothing else is said; None where the model has none."""
    return str(model.active_adapter) if is_adapted(model) else None


@contextlib.contextmanager
def answering(model: nn.Module, adapter: str | None) -> Iterator[None]:
    """Makes an adapter the one that answers, or none with None, and puts back the one before."""
    if not is_adapted(model) or model.active_adapter == adapter:
        yield
    elif adapter is None:
        with model.disable_adapter():
            yield
    else:
        with _switched(model, adapter, str(model.active_adapter)):
            yield


@contextlib.contextmanager
def _switched(model: "PeftModel", adapter: str, back: str) -> Iterator[None]:
    """Another adapter for a while. PEFT makes the active one trainable, so what was trainable is put back too."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    model.set_adapter(adapter)
    try:
        yield
    finally:
        model.set_adapter(back)
        for name, p in model.named_parameters():
            p.requires_grad_(name in trained)
