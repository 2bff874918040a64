"""A decoder made narrower: which channels and groups stay, and the others made to have no effect.

    inner width   s_j = |x_j| |w_j|                    x_j over all tokens, what `down` reads; w_j the column it reads it with
    groups        s_k = sqrt(sum over j in k of |x_j|^2 |w_j|^2)                                   what `output` reads, so
    stream        s_j = mean over norms of |y_j|       y_j over all tokens, what a norm writes

after Minitron (Muralidharan et al. 2024, arXiv 2407.14679), which looks at x alone. What does not stay becomes zero where it is
written and where it is read, at the old widths; so it can be cut off without any further change (`models/width.py`).

`repair` lets what stays make up for it. Layer by layer every matrix becomes the one that gives, for what it reads now, most nearly
what it gave before anything was cut:

    W + W E (G + lambda I)^-1       E = sum over tokens of (x_0 - x) x^T,  G = sum over tokens of x x^T

x_0 is whole and x has zeros, so this foretells what is missing by what stays. Columns of zeros in x are columns that W loses.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.functional.rounding import DAMP, corrected
from posttrain.models.blocks import TOKENS_ON_CPU, Block, Blocks, removed
from posttrain.models.inputs import groups
from posttrain.models.width import Axis, Kept, Width, axes, norms, without_effect

from .job import Job
from .layerwise import heard, walk


@dataclass(frozen=True)
class Narrowing:
    """What is to stay of a model, and the axes of its weights that follow."""

    weights: Any
    axes: Sequence[Axis]
    kept: Kept

    @classmethod
    def of(cls, weights: Any, widths: Mapping[Width, int], ids_NT: Tensor, device: torch.device) -> "Narrowing":
        """Looks at what passes through a model when it reads some texts. `widths` are those to come. Raises ModelError."""
        found = axes(weights, widths)
        scores: dict[tuple[Width, str], Tensor] = {}
        for axis, square in sums_of_squares(weights, found, ids_NT, device).items():
            score = _score(weights.get_parameter(axis.name), square, axis)
            scores[axis.key] = scores[axis.key] + score if axis.key in scores else score
        return cls(weights, found, {key: largest(score, widths[key[0]]) for key, score in scores.items()})

    def close(self, prefix: str = "") -> None:
        """Makes zero whatever does not stay in the parameters whose names begin so."""
        without_effect(self.weights, [axis for axis in self.axes if axis.name.startswith(prefix)], self.kept)

    def repair(self, ids_NT: Tensor, device: torch.device, job: Job) -> None:
        """Makes it zero layer by layer, and lets what stays make up for it."""
        blocks = Blocks(self.weights, ids_NT, device, both=True)
        outside = [axis for axis in self.axes if not axis.name.startswith(tuple(f"{b.name}." for b in blocks.blocks))]
        without_effect(self.weights, outside, self.kept)
        if ("hidden", "") in self.kept:
            stays = torch.zeros(blocks.states.shape[-1], dtype=torch.bool)
            stays[self.kept["hidden", ""]] = True
            blocks.states.mul_(stays)

        def solve(block: Block) -> dict[str, Any]:
            self._solve(blocks, block)
            return dict(block.module.state_dict())

        for _ in walk(blocks, solve, lambda block, kept: block.module.load_state_dict(kept), job):
            pass

    @torch.no_grad()
    def _solve(self, blocks: Blocks, block: Block) -> None:
        whole = replace(block, module=deepcopy(block.module))
        linears, before = block.linears(), whole.linears()
        self.close(f"{block.name}.")
        for names in groups(block, blocks.some()):
            inputs = heard(blocks, block, [names], whole)
            for name in names:
                gram, drift, _ = inputs.of(name)
                if gram is not None and drift is not None and gram.isfinite().all():
                    linears[name].weight.copy_(corrected(before[name].weight, gram, drift, 1, DAMP))
                    self.close(f"{name}.")
        blocks.pass_untouched(whole)


def largest(score: Tensor, n: int) -> Tensor:
    """(n,): where the largest are, in their order; the first of those that are equal.

    >>> largest(torch.tensor([3.0, 1.0, 2.0, 2.0]), 2).tolist()
    [0, 2]
    """
    return score.sort(descending=True, stable=True).indices[:n].sort().values


@torch.no_grad()
def sums_of_squares(weights: Any, found: Sequence[Axis], ids_NT: Tensor, device: torch.device) -> dict[Axis, Tensor]:
    """(C,) each: of the channels that a matrix reads of an inner width or of groups, and of those that a norm over the stream
    writes."""
    over = norms(weights, found)
    sums: dict[Axis, Tensor] = {}

    def hearing(axis: Axis) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], written: Tensor) -> None:
            x = written if axis.width == "hidden" else args[0]
            total = x.flatten(0, -2).double().square().sum(0).cpu()
            sums[axis] = sums[axis] + total if axis in sums else total

        return hook

    heard = [axis for axis in found if (axis.module in over if axis.width == "hidden" else axis.dim == 1)]
    hooks = [weights.get_submodule(axis.module).register_forward_hook(hearing(axis)) for axis in heard]
    weights.to(device)
    with removed(hooks):
        for ids in ids_NT.split(max(1, TOKENS_ON_CPU // ids_NT.shape[1])):
            weights.base_model(input_ids=ids.to(device), use_cache=False)
    weights.to("cpu")
    return {axis: sums[axis] for axis in heard}


def _score(weight: Tensor, square_C: Tensor, axis: Axis) -> Tensor:
    """How much each channel or group is missed if what it brings is no more."""
    if axis.width == "hidden":
        return square_C.sqrt()
    found: Tensor = (square_C * weight.double().square().sum(0)).view(-1, sum(axis.sections)).sum(-1).sqrt()
    return found
