"""Disturbed prompts: something is added to the embedding of every token of a prompt, within a ball around it.

The size is in units of the mean length of the model's embeddings, so that one number means about the same for all models.

Shapes: R rows, T places of a row, D width, P prompts.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from posttrain.functional.layout import Tree
from posttrain.schema.errors import ModelError

from .policy import Policy

LEAST_SLOPE = 1e-3
"""Nats per unit of an embedding below which rounding would choose the direction: a prompt is moved by less, then."""


class Disturbance:
    """What is added to the prompts of `trees`: nothing at first. `step` moves it uphill and keeps it within `radius`."""

    def __init__(self, policy: Policy, trees: Sequence[Tree], radius: float):
        if policy.encodes:
            raise ModelError(
                "An encoder-decoder's prompts cannot be disturbed here. Take a decoder-only model, or `sft`."
            )
        weight = policy.model.get_input_embeddings().weight
        self.radius = radius * float(weight.detach().float().norm(dim=-1).mean())
        self.policy, self.trees = policy, trees
        self.added: Tensor | None = None
        self._prompt_RT: Tensor | None = None  # the number of the prompt that a place belongs to, P where to none

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within: the policy reads these trees with what is added."""
        handle = self.policy.model.get_input_embeddings().register_forward_hook(self._add)
        try:
            with self.policy.afresh():
                yield
        finally:
            handle.remove()

    def step(self, loss: Callable[[], Tensor], size: float) -> None:
        """Moves what is added to each prompt in the direction in which the loss, a sum in nats, rises most; where it is
        steepest, by `size` radii."""
        with torch.enable_grad(), self.applied():
            value = loss()
        assert self.added is not None and self._prompt_RT is not None
        (slope,) = torch.autograd.grad(value, self.added)
        moved = self.added + size * self.radius * slope / self._steepest(slope.norm(dim=-1))[..., None]
        lengths = moved.norm(dim=-1, keepdim=True)
        self.added = (moved * (self.radius / lengths.clamp(min=self.radius))).detach().requires_grad_()

    def _steepest(self, slopes_RT: Tensor) -> Tensor:
        """(R, T): the steepest slope within the prompt of each place."""
        assert self._prompt_RT is not None
        prompts = self._prompt_RT.flatten()
        most = slopes_RT.new_zeros(int(prompts.max()) + 1).scatter_reduce(0, prompts, slopes_RT.flatten(), "amax")
        return most[self._prompt_RT].clamp(min=LEAST_SLOPE)

    def _add(self, module: torch.nn.Module, given: Any, made: Tensor) -> Tensor:
        if self.added is None or self._prompt_RT is None:
            self._prompt_RT = self._prompts(made)
            self.added = torch.zeros_like(made, dtype=torch.float32).requires_grad_()
        stands = self._prompt_RT[..., None] < int(self._prompt_RT.max())
        return made + (self.added * stands).to(made.dtype)

    def _prompts(self, made: Tensor) -> Tensor:
        """(R, T): which prompt a place belongs to."""
        for way in ("packed", "padded"):
            layout = self.policy.laid_out(self.trees, way)
            if (len(layout.rows), len(layout.rows[0])) == made.shape[:2]:
                break
        else:
            raise ModelError("This model reads its rows in another layout than the one that is disturbed. Take `sft`.")
        places = list(_places(self.trees, way))
        found = torch.full(made.shape[:2], len(places), device=made.device)
        for number, (row, start, n) in enumerate(places):
            found[row, start : start + n] = number
        return found


def _places(trees: Sequence[Tree], way: str) -> Iterator[tuple[int, int, int]]:
    """(row, first place, tokens) of every prompt; padded rows stand branch by branch."""
    if way == "packed":
        start = 0
        for tree in trees:
            yield 0, start, len(tree.prompt)
            start += tree.n_tokens()
        return
    most = max((len(tree.branches) for tree in trees), default=0)
    order = [tree for branch in range(most) for tree in trees if branch < len(tree.branches)]
    for row, tree in enumerate(order):
        yield row, 0, len(tree.prompt)
