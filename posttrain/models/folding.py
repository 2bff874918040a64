"""Where a scale of a layer's inputs can be folded away: into the layer that wrote them.

    norm -> query, key, value        norm -> gate, up        up -> down        value -> output, where each head has its own
    norm -> all experts, what chooses them, and what stands beside them

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
from .experts import DOWN, UP, Experts, experts_in, layer_of_experts
from .inputs import Groups

TOLERANCE = 1e-3  # of a block's output: what folding may move it by, in fp32


@dataclass(frozen=True)
class Fold:
    """Matrices that read the same, by name, and the module that writes it. Its weights are `offset` + w. `others` read it too,
    and are no matrices that are rounded."""

    readers: Mapping[str, nn.Linear]
    writer: Any
    offset: float
    others: tuple[Any, ...] = ()

    @torch.no_grad()
    def by(self, scale_C: Tensor) -> None:
        """Divides what is written and multiplies what it is read with."""
        _multiply(self.writer, 1 / scale_C, self.offset)
        for reader in (*self.readers.values(), *self.others):
            reader.weight.mul_(scale_C)


@torch.no_grad()
def folds(block: Block, of: Groups, hidden: Tensor) -> list[Fold]:
    """Every place of a block where the inputs of a group can be scaled, found with hidden states of some texts, (n, T, D)."""
    linears = block.linears()
    found = [
        one for name, experts in experts_in(block.module).items() for one in _of_experts(block, name, experts, hidden)
    ]
    done = {name for one in found for name in one.readers}
    for names in of:
        readers = {name: linears[name] for name in names}
        if done.isdisjoint(names) and not layer_of_experts(names[0]):
            writer = _writer(block, linears[names[0]], set(readers.values()), hidden)
            if writer is not None:
                found.append(Fold(readers, *writer))
    return found


def _of_experts(block: Block, name: str, experts: Experts, hidden: Tensor) -> Iterator[Fold]:
    """What scales the inputs of the experts of a layer. They all read the same, and each writes what its last matrix reads."""
    prefix, linears = f"{block.name}.{name}.", block.linears()
    own = {each: linear for each, linear in linears.items() if each.startswith(prefix)}
    last = {each: linear for each, linear in own.items() if each.endswith(f".{DOWN}")}
    first = {each: linear for each, linear in own.items() if each not in last}
    writer = _writer(block, experts, set(), hidden)
    if writer is not None:
        beside = _readers(block, *writer, set(own.values()), hidden)
        more = {each: linear for each, linear in linears.items() if linear in beside}
        yield Fold(first | more, *writer, tuple(beside - set(more.values())))
    if experts.scales_what_it_writes():
        for each, linear in last.items():
            yield Fold({each: linear}, linears[each.removesuffix(DOWN) + UP], 0.0)


def _readers(block: Block, writer: Any, offset: float, but: set[nn.Linear], hidden: Tensor) -> set[Any]:
    """The modules with a matrix that read what a module writes."""
    width = len(writer.weight)
    wide: list[Any] = [
        each for each in block.module.modules() if getattr(getattr(each, "weight", None), "dim", int)() == 2
    ]
    wide = [each for each in wide if each.weight.shape[1] == width and each not in but]
    twice = _twice(width, hidden)
    plain = [_read(block, each, hidden) for each in wide]
    with _multiplied(writer, twice, offset):
        changed = [_read(block, each, hidden) for each in wide]
    return {each for each, x, y in zip(wide, plain, changed, strict=True) if _are(y, x * twice)}


@torch.no_grad()
def fold(block: Block, one: Fold, scale_C: Tensor, hidden: Tensor) -> bool:
    """Folds a scale in, if the block then still computes the same; whether it does."""
    before = block(hidden)
    one.by(scale_C)
    if (block(hidden) - before).norm() <= TOLERANCE * before.norm():
        return True
    one.by(1 / scale_C)
    return False


def _writer(block: Block, reader: nn.Module, readers: set[nn.Linear], hidden: Tensor) -> tuple[nn.Module, float] | None:
    """The module whose outputs a matrix reads as they are, or multiplied with something else; None if there is none."""
    plain = _read(block, reader, hidden)
    width = getattr(reader, "in_features", plain.shape[-1])
    twice = _twice(width, hidden)
    for module in _candidates(block, width, readers):
        for offset in (0.0, 1.0) if module.weight.dim() == 1 else (0.0,):
            with _multiplied(module, twice, offset):
                changed = _read(block, reader, hidden)
            if _are(changed, plain * twice):
                return module, offset
    return None


def _candidates(block: Block, width: int, readers: set[nn.Linear]) -> Iterator[Any]:
    for module in block.module.modules():
        weight = getattr(module, "weight", None)
        fits = isinstance(weight, Tensor) and weight.dim() in (1, 2) and len(weight) == width
        if fits and module not in readers and not isinstance(module, nn.Embedding):
            yield module


def _twice(width: int, hidden: Tensor) -> Tensor:
    twice = torch.ones(width, device=hidden.device)
    twice[::2] = 2
    return twice


def _are(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.allclose(x, y, rtol=1e-4, atol=1e-6)


def _read(block: Block, reader: nn.Module, hidden: Tensor) -> Tensor:
    """What a module reads when some texts pass through the block."""
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
