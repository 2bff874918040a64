"""Anchors: what pulls a training back to the weights that it began with. Added to the gradient once a step.

L2-SP (Li et al. 2018, arXiv 1802.01483)        a/2 sum (w - w0)^2             gradient  a (w - w0)
EWC (Kirkpatrick et al. 2017, arXiv 1612.00796)  b/2 sum F (w - w0)^2           gradient  b F (w - w0)

F is the diagonal of the Fisher information: the mean over rows of the squared gradient of a row's log-likelihood, taken
at w0 on general rows, and written down, so that a resumed run pulls with the same numbers. Both are sums over weights and not over tokens, so they stand beside a loss in nats per token.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree
from posttrain.models.policy import Policy

from .checkpoint import read_whole, write_whole

NAME = "fisher.pt"
MOST_ROWS = 256  # each costs a step of one row


class Anchors:
    """The weights that are trained as they were, made before the first step. `general` are rows to take the Fisher
    information from, and `scratch` where it is written; neither is needed where `ewc` is 0."""

    def __init__(
        self,
        policy: Policy,
        l2: float = 0.0,
        ewc: float = 0.0,
        general: Sequence[Tree] = (),
        scratch: Path | None = None,
    ) -> None:
        self.l2, self.ewc = l2, ewc
        self._weights = policy.trainable()
        self._start = [p.detach().clone() for p in self._weights] if l2 or ewc else []
        self._fisher = _known_fisher(policy, general, scratch) if ewc else []

    @torch.no_grad()
    def pull(self) -> None:
        """Adds the gradient of the penalties to that of the loss."""
        for i, start in enumerate(self._start):
            weight = self._weights[i]
            if weight.grad is None:
                continue
            away = weight - start
            if self.l2:
                weight.grad.add_(away, alpha=self.l2)
            if self.ewc:
                weight.grad.addcmul_(self._fisher[i], away, value=self.ewc)


def _known_fisher(policy: Policy, general: Sequence[Tree], scratch: Path | None) -> list[Tensor]:
    """The Fisher information as it was written when the training began, or of rows spread over all."""
    path = scratch / NAME if scratch else None
    known = read_whole(path) if path else None
    if known is None:
        known = fisher(policy, general[:: -(-len(general) // MOST_ROWS) or 1])
        if path:
            write_whole(path, known)
    return [each.to(policy.device) for each in known]


def fisher(policy: Policy, trees: Sequence[Tree]) -> list[Tensor]:
    """The diagonal Fisher information of each trained tensor, from one gradient a row; leaves no gradient behind."""
    weights = policy.trainable()
    found = [torch.zeros_like(p) for p in weights]
    for tree in trees:
        policy.logps(Batch((tree,))).sum().backward()
        for total, p in zip(found, weights, strict=True):
            if p.grad is not None:
                total.addcmul_(p.grad, p.grad, value=1 / len(trees))
            p.grad = None
    return found
