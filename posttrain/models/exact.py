"""Which layout is exact: a self-test on the model at hand, before anything is trained with it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posttrain.functional.layout import Branch, Tree

from . import attention
from .vocabulary import n_rows

if TYPE_CHECKING:
    from .policy import Policy

TOLERANCE = 2e-4
LAYOUTS = ("packed", "padded", "logits")
LONGEST = 16  # tokens of a path of the probe


def probe(vocabulary: int, context: int) -> list[Tree]:
    """Two small trees with two branches of unlike length: everything that a layout can get wrong. They are smaller still
    for a model that reads very little."""
    draw = torch.Generator().manual_seed(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (n,), generator=draw).tolist())

    def branch(n: int) -> Branch:
        return Branch(tokens(n), (True,) * n)

    if context < LONGEST:
        return [Tree(tokens(2), (branch(1), branch(2))), Tree(tokens(1), (branch(2), branch(1)))]
    return [Tree(tokens(7), (branch(5), branch(9))), Tree(tokens(4), (branch(6), branch(3)))]


@torch.no_grad()
def exact_layout(policy: "Policy") -> tuple[str, str]:
    """The fastest layout that agrees with whole logits on padded rows, and why it was chosen."""
    dtype, policy.dtype = policy.dtype, "float32"
    trees = probe(n_rows(policy.model), policy.context)
    why = "packed rows are exact"
    try:
        truth = policy.tried(trees, "logits")
        for way in LAYOUTS[:-1]:
            error = _difference(policy, trees, way, truth)
            if error < TOLERANCE:
                return way, why
            why = f"{way} rows differ by {error:.1e}" if error < float("inf") else f"{way} rows cannot be computed"
        return "logits", why
    finally:
        policy.dtype = dtype


def _difference(policy: "Policy", trees: Sequence[Tree], way: str, truth: Tensor) -> float:
    try:
        return float((policy.tried(trees, way) - truth).abs().max())
    except (attention.Unsupported, RuntimeError, AttributeError, TypeError):
        return float("inf")
