"""Adapters through PEFT: a few trainable weights beside the frozen ones. One file holds one kind of them."""

from .active import active, answering, is_adapted
from .attach import attach, is_virtual, n_virtual, n_weights, reload, save_adapter
from .choice import Adapter, as_recommended
from .family import NAME, Family
from .low_rank import TIMES, LoRA, QLoRA, rate_groups, start_of
from .scales import IA3
from .subspace import OSF
from .virtual import Prefix, Prompt, PTuning

__all__ = [
    "IA3",
    "NAME",
    "OSF",
    "TIMES",
    "Adapter",
    "Family",
    "LoRA",
    "PTuning",
    "Prefix",
    "Prompt",
    "QLoRA",
    "active",
    "answering",
    "as_recommended",
    "attach",
    "is_adapted",
    "is_virtual",
    "n_virtual",
    "n_weights",
    "rate_groups",
    "reload",
    "save_adapter",
    "start_of",
]  # fmt: skip
