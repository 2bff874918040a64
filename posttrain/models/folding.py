"""Where a scale of a layer's inputs can be folded away: into the layer that wrote them.

    norm -> query, key, value        norm -> gate, up        up -> down        value -> output, where each head has its own

Names say nothing sure, so it is tried: a writer whose outputs are doubled in every other channel must double just those that
the readers read. Norms that multiply by 1 + w are told by the same trial. Afterwards the block must still compute what it did.

Shapes: C channels.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Block, removed
from .inputs import Groups

TOLERANCE = 1e-3  # of a block's output: what folding may move it by, in fp32


@dataclass(frozen=True)
class Fold:
    """Matrices that read the same, by name, and the module that writes it. Its weights are `offset` + w."""

    readers: Mapping[str, nn.Linear]
    writer: Any
    offset: float

    @torch.no_grad()
    def by(self, scale_C: Tensor) -> None:
        """Divides what is written and multiplies what it is read with."""
        _multiply(self.writer, 1 / scale_C, self.offset)
        for linear in self.readers.values():
            linear.weight.mul_(scale_C)


@torch.no_grad()
def folds(block: Block, of: Groups, hidden: Tensor) -> list[Fold]:
    """Every place of a block where the inputs of a group can be scaled, found with hidden states of some texts, (n, T, D)."""
    found, linears = [], block.linears()
    for names in of:
        readers = {name: linears[name] for name in names}
        writer = _writer(block, linears[names[0]], set(readers.values()), hidden)
        if writer is not None:
            found.append(Fold(readers, *writer))
    return found


@torch.no_grad()
def fold(block: Block, one: Fold, scale_C: Tensor, hidden: Tensor) -> bool:
    """Folds a scale in, if the block then still computes the same; whether it does."""
    before = block(hidden)
    one.by(scale_C)
    if (block(hidden) - before).norm() <= TOLERANCE * before.norm():
        return True
    one.by(1 / scale_C)
    return False


def _writer(block: Block, reader: nn.Linear, readers: set[nn.Linear], hidden: Tensor) -> tuple[nn.Module, float] | None:
    """The module whose outputs a matrix reads as they are, or multiplied with something else; None if there is none."""
    width = reader.in_features
    twice = torch.ones(width, device=hidden.device)
    twice[::2] = 2
    plain = _read(block, reader, hidden)
    for module in _candidates(block, width, readers):
        for offset in (0.0, 1.0) if module.weight.dim() == 1 else (0.0,):
            with _multiplied(module, twice, offset):
                changed = _read(block, reader, hidden)
            if torch.allclose(changed, plain * twice, rtol=1e-4, atol=1e-6):
                return module, offset
    return None


def _candidates(block: Block, width: int, readers: set[nn.Linear]) -> Iterator[Any]:
    for module in block.module.modules():
        weight = getattr(module, "weight", None)
        fits = isinstance(weight, Tensor) and weight.dim() in (1, 2) and len(weight) == width
        if fits and module not in readers and not isinstance(module, nn.Embedding):
            yield module


def _read(block: Block, reader: nn.Linear, hidden: Tensor) -> Tensor:
    """What a matrix reads when some texts pass through the block."""
    caught: list[Tensor] = []
    with removed([reader.register_forward_pre_hook(lambda _, args: caught.append(args[0]))]):
        block(hidden)
    return caught[0] if caught else hidden.new_full((), torch.nan)


@contextmanager
def _multiplied(module: Any, by_C: Tensor, offset: float) -> Iterator[None]:
    """Within: what a module writes is multiplied."""
    kept = [parameter.clone() for parameter in _parameters(module)]
    _multiply(module, by_C, offset)
    try:
        yield
    finally:
        for parameter, old in zip(_parameters(module), kept, strict=True):
            parameter.copy_(old)


def _multiply(module: Any, by_C: Tensor, offset: float) -> None:
    weight = module.weight
    weight.copy_((weight + offset) * by_C - offset if weight.dim() == 1 else weight * by_C[:, None])
    if getattr(module, "bias", None) is not None:
        module.bias.mul_(by_C)


def _parameters(module: Any) -> Sequence[Tensor]:
    return [x for x in (module.weight, getattr(module, "bias", None)) if x is not None]
