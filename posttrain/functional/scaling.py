"""Scales that move the difficulty of rounding from some inputs of a layer to others, and change nothing before it.

    W x = (W diag(s)) (diag(s)^-1 x)        s > 0, for each input

Weights that meet large inputs deserve finer steps. AWQ (Lin et al. 2023, arXiv 2306.00978) makes them larger within their
group before they are rounded, so that their error becomes a smaller part of them:

    s(r) = m^r,  or  m^r / u^(1-r)        r in 0 ... 1, m how large inputs are, u how large their weights are in their groups

and takes the s of the least change tr(D G D^T), D = W - round(W diag(s)) diag(s)^-1, over all matrices that read the same. Here
m is the root mean square of an input, which G knows, where the paper takes the mean of its size, and the change is that of
the matrices' own outputs.

Where inputs are rounded too, one large input makes the steps of all others coarse. SmoothQuant (Xiao et al. 2022, arXiv
2211.10438) shares what is difficult between inputs and weights:

    s_j = max |x_j|^a / max |W_:j|^(1-a)        a = 1 leaves all of it to the weights, a = 0 to the inputs

Shapes: R rows, C columns; G (C, C) = sum over tokens of x x^T.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .rounding import Grid, nearest

RATIOS = 20
LEAST = 1e-5  # of an input or a weight: what never comes must not divide
ROWS = 512  # of each matrix that scales are tried on, spread over all


def awq_scales(weights: Sequence[Tensor], gram: Tensor, grids: Sequence[Grid]) -> Tensor:
    """(C,): the scales of the inputs that some matrices (R, C) share; all 1 where nothing is better."""
    least, best = float("inf"), torch.ones_like(gram[0])
    some = [weight[:: -(-len(weight) // ROWS)] for weight in weights]
    for scale in _candidates(weights, gram, grids):
        change = sum(_change(weight, scale, gram, grid) for weight, grid in zip(some, grids, strict=True))
        if change < least:
            least, best = change, scale
    return best


def smooth_scales(weights: Sequence[Tensor], largest: Tensor, alpha: float) -> Tensor:
    """(C,): SmoothQuant's scales of the inputs that some matrices (R, C) share, by how `largest` each was, (C,)."""
    of_weights = torch.cat([weight.abs() for weight in weights]).amax(0)
    return largest.clamp(min=LEAST) ** alpha / of_weights.clamp(min=LEAST) ** (1 - alpha)


def _candidates(weights: Sequence[Tensor], gram: Tensor, grids: Sequence[Grid]) -> Iterator[Tensor]:
    inputs = gram.diagonal().clamp(min=0).sqrt()
    inputs = (inputs / inputs.mean().clamp(min=1e-12)).clamp(min=1e-4)
    sizes = torch.cat([_within_groups(weight, grid) for weight, grid in zip(weights, grids, strict=True)]).mean(0)
    yield torch.ones_like(inputs)
    for ratio in torch.linspace(0, 1, RATIOS + 1)[1:].tolist():
        for scale in (inputs**ratio, inputs**ratio / (sizes ** (1 - ratio) + 1e-4)):
            yield scale / (scale.max() * scale.min()).sqrt()


def _within_groups(weight: Tensor, grid: Grid) -> Tensor:
    """(R, C): how large each weight is beside the largest of its group."""
    rows, columns = weight.shape
    groups = weight.abs().reshape(rows, -1, grid.group or columns)
    return (groups / groups.amax(-1, keepdim=True).clamp(min=1e-12)).reshape(rows, columns)


def _change(weight: Tensor, scale: Tensor, gram: Tensor, grid: Grid) -> float:
    change = weight - nearest(weight * scale, grid).dense() / scale
    return float(((change @ gram) * change).sum())
