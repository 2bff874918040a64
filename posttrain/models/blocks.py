"""A causal model walked block by block, each with what it reads when all before it are as they are by then.

    h_0 = embeddings(ids)        h_n+1 = block_n(h_n, masks, positions)

Hidden states wait in the machine's memory and one block at a time is on the device, so what is needed there is one block's.
What a block is told beside its hidden states is the same for all texts of one length: it is caught once, in a pass of a
single text through the whole model, which also shows that each block reads what the one before it wrote.

Shapes: N texts of T tokens, D width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.schema.errors import ModelError

from .activations import layers
from .experts import linears_in

TOKENS = 4096  # that go through a block at once
TOKENS_ON_CPU = 1024  # there, what stays near the caches is faster


@dataclass(frozen=True)
class Block:
    """One of the repeated layers. `told` is what it reads beside its hidden states."""

    name: str
    module: nn.Module
    told: tuple[tuple[Any, ...], dict[str, Any]]

    def linears(self) -> dict[str, nn.Linear]:
        """Its matrices, by their names in the model."""
        return linears_in(self.module, self.name)

    def __call__(self, hidden: Tensor) -> Tensor:
        args, kwargs = _moved(self.told, hidden.device)
        found = self.module(hidden, *args, **kwargs)
        return found[0] if isinstance(found, tuple) else found


class Caught(Exception):
    """What was looked for is known, and the rest of the pass would be for nothing."""


class Blocks:
    """The blocks of a model with the hidden states of texts, (N, T) ids, on their way through. Raises ModelError for a model
    whose layers do not read one from the other. `both` keeps a second set of hidden states, `untouched`, which go through
    blocks that nothing was done to."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, ids_NT: Tensor, device: torch.device, both: bool = False):
        at_once = TOKENS_ON_CPU if device.type == "cpu" else TOKENS
        self.device, self.at_once = device, max(1, at_once // ids_NT.shape[1])
        named = dict(layers(model))
        if not named:
            raise ModelError(
                f"{type(model).__name__} has no repeated layers that can be found, so it cannot be compressed block by block. "
                "Name a decoder such as a Llama, Mistral, Qwen, Gemma or Phi."
            )
        told = _told(model, named, ids_NT[:1])
        self.blocks = [Block(name, module, told[name]) for name, module in named.items()]
        first = self.blocks[0].module
        self.states = torch.cat([_read_by(first, model, ids) for ids in ids_NT.split(self.at_once)])  # (N, T, D)
        self.untouched = self.states.clone() if both else None

    def __iter__(self) -> Iterator[Block]:
        """Every block, on the device; when it is asked for the next one, this one, changed as it may be, was passed through."""
        for block in self.blocks:
            block.module.to(self.device)
            yield block
            if block is not self.blocks[-1]:
                self._pass(self.states, block)
            block.module.to(self.states.device)

    def pairs(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The hidden states of some texts at once, (n, T, D), and those of blocks that nothing was done to."""
        for n, some in enumerate(self.states.split(self.at_once)):
            there = None if self.untouched is None else self.untouched.split(self.at_once)[n].to(self.device)
            yield some.to(self.device), there

    def some(self) -> Tensor:
        """(1, T, D): what the block that is on the device reads of one text."""
        return self.states[:1].to(self.device)

    def pass_untouched(self, block: Block) -> None:
        """Passes the other hidden states through a block that nothing was done to."""
        if self.untouched is not None:
            self._pass(self.untouched, block)

    @torch.no_grad()
    def _pass(self, states: Tensor, block: Block) -> None:
        for some in states.split(self.at_once):
            some.copy_(block(some.to(self.device)))  # in place: `split` gives views


def _told(
    model: nn.Module, named: dict[str, nn.Module], ids: Tensor
) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """What each block is given beside its hidden states. Raises ModelError if they are not given on from block to block."""
    found: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    last: list[Tensor] = []

    def before(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, *more = args or (kwargs["hidden_states"],)
            if last and not torch.equal(hidden, last.pop()):
                raise ModelError(
                    f"{name} does not read what the layer before it wrote, so this model cannot be compressed block by block."
                    " Name a decoder whose layers follow one another, such as a Llama, Mistral, Qwen, Gemma or Phi."
                )
            left_out = ("hidden_states", "past_key_values", "use_cache")
            found[name] = tuple(more), {key: value for key, value in kwargs.items() if key not in left_out}

        return hook

    def after(_: nn.Module, __: Any, output: Any) -> None:
        last[:] = [output[0] if isinstance(output, tuple) else output]

    hooks = [module.register_forward_pre_hook(before(name), with_kwargs=True) for name, module in named.items()]
    hooks += [module.register_forward_hook(after) for module in named.values()]
    with removed(hooks):
        model(input_ids=ids, use_cache=False)
    return found


def _read_by(first: nn.Module, model: nn.Module, ids: Tensor) -> Tensor:
    """(n, T, D): what the first block reads of some texts."""
    caught: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(args[0] if args else kwargs["hidden_states"])
        raise Caught

    with removed([first.register_forward_pre_hook(hook, with_kwargs=True)]), suppress(Caught):
        model(input_ids=ids, use_cache=False)
    return caught[0]


@contextmanager
def removed(hooks: list[Any]) -> Iterator[None]:
    """Within: hooks are in place."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _moved(value: Any, device: torch.device) -> Any:
    """Tensors within tuples, lists and dictionaries on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_moved(each, device) for each in value)
    return value
