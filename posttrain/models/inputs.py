"""What reaches the matrices of a block, summed over all tokens of a calibration.

    G = sum over tokens of x x^T               its diagonal: how large each input is
    E = sum over tokens of (x_0 - x) x^T       x_0: what the matrix read in the model that nothing was done to
    max over tokens of |x|                     what a scale of all inputs must reach

Matrices that read one and the same tensor, as query, key and value do, share what is known of it. An expert reads the tokens that
chose it; x_0 is what it would have read of these very tokens. Shapes: C inputs of a matrix.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Block, Caught, removed
from .experts import routed_as

PART = 512  # columns of G that are summed at once, and only from the diagonal on: it is symmetric

Groups = Sequence[Sequence[str]]
"""Names of matrices in the order in which they are used; those that read the same together."""


@torch.no_grad()
def groups(block: Block, some: Tensor) -> list[list[str]]:
    """The matrices of a block by what they read of some texts, (n, T, D); those that nothing reached are alone, and last."""
    seen: list[tuple[Tensor, list[str]]] = []

    def hear(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            same = next((names for x, names in seen if x is args[0]), None)
            if same is None:
                seen.append((args[0], [name]))  # held, so that no other tensor takes its place meanwhile
            elif name not in same:
                same.append(name)

        return hook

    linears = block.linears()
    with removed([linear.register_forward_pre_hook(hear(name)) for name, linear in linears.items()]):
        block(some)
    found = [names for _, names in seen]
    return found + [[name] for name in linears if not any(name in names for names in found)]


class Inputs:
    """The inputs of groups of matrices of a block; where there is the block of a model that nothing was done to `beside` it,
    how they differ from its."""

    def __init__(self, block: Block, of: Groups, beside: Block | None = None):
        self.leader = {name: names[0] for names in of for name in names}
        self.gram: dict[str, Tensor] = {}
        self.drift: dict[str, Tensor] = {}
        self.largest: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}
        self._block, self._beside = block, beside
        self._waits: set[str] = set()
        self._here: dict[str, Tensor] = {}
        self._half: set[str] = set()

    def of(self, name: str) -> tuple[Tensor | None, Tensor | None, int]:
        """(G, E, tokens) of what a matrix reads, (C, C) each; None for what is not known."""
        leader = self.leader[name]
        if not self.tokens.get(leader):
            return None, None, 0
        if leader in self._half:
            self._half.discard(leader)
            self.gram[leader] = self.gram[leader].triu() + self.gram[leader].triu(1).t()
        return self.gram[leader], self.drift.get(leader), self.tokens[leader]

    def together(self, names: Sequence[str]) -> Tensor | None:
        """(C, C): the sum of what is known of several matrices, each of what they read once; None if no token reached them."""
        grams = [
            gram
            for leader in dict.fromkeys(self.leader[name] for name in names)
            if (gram := self.of(leader)[0]) is not None
        ]
        return grams[0] if len(grams) == 1 else torch.stack(grams).sum(0) if grams else None

    def largest_of(self, names: Sequence[str]) -> Tensor | None:
        """(C,): the largest size of each input that several matrices share; None if no token reached them."""
        found = [self.largest[leader] for name in names if (leader := self.leader[name]) in self.largest]
        return torch.stack(found).amax(0) if found else None

    @torch.no_grad()
    def hear(self, some: Tensor, there: Tensor | None = None) -> None:
        """Counts what reaches the matrices when some hidden states, (n, T, D), pass through the block, and others through the
        one beside it; no further than the last of the matrices."""
        if self._beside is None or there is None:
            self._pass(self._block, some, self._add)
            return
        with routed_as(self._beside.module, self._block.module):
            self._pass(self._block, some, self._add)
            self._pass(self._beside, there, self._differ)
        self._here.clear()

    def _pass(self, block: Block, hidden: Tensor, take: Callable[[str, Tensor], None]) -> None:
        linears = block.linears()
        leaders = dict.fromkeys(self.leader.values())
        self._waits = set(leaders)

        def hook(name: str) -> Callable[..., None]:
            def taken(_: nn.Module, args: tuple[Any, ...]) -> None:
                take(name, args[0].reshape(-1, args[0].shape[-1]).float())
                self._waits.discard(name)
                if not self._waits:
                    raise Caught

            return taken

        hooks = [linears[name].register_forward_pre_hook(hook(name)) for name in leaders]
        with removed(hooks), suppress(Caught):
            block(hidden)

    def _add(self, name: str, x: Tensor) -> None:
        gram = _zeros(self.gram, name, x)
        for start in range(0, len(gram), PART):
            gram[start : start + PART, start:].addmm_(x[:, start : start + PART].t(), x[:, start:])
        self._half.add(name)
        self.tokens[name] = self.tokens.get(name, 0) + len(x)
        if self._beside is not None:
            self._here[name] = x
        if len(x):
            largest = x.abs().amax(0)
            self.largest[name] = torch.maximum(self.largest.get(name, largest), largest)

    def _differ(self, name: str, there: Tensor) -> None:
        x = self._here.get(name)
        if x is not None and there.shape == x.shape:  # routed tokens may be others, where experts are no `Experts`
            _zeros(self.drift, name, x).addmm_((there - x).t(), x)


def _zeros(sums: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """The sum of that name, (C, C), which begins with nothing."""
    if name not in sums:
        sums[name] = x.new_zeros(x.shape[1], x.shape[1])
    return sums[name]
