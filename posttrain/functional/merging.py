"""Several models made one: means of their weights, and sums of what each learnt since a base that all come from.

    linear      sum_m w_m theta_m / sum_m w_m                           model soups (Wortsman et al. 2022, arXiv 2203.05482)
    slerp       sin((1 - t) O) / sin O  theta_1 + sin(t O) / sin O  theta_2     O: the angle between them (Shoemake 1985)
    sum         theta_0 + sum_m w_m tau_m,   tau_m = theta_m - theta_0         (Ilharco et al. 2022, arXiv 2212.04089)
    TIES        trim each tau_m to its largest entries; elect a sign for each entry, g = sgn(sum_m w_m tau_m); take the mean of
                those that have it alone                                 (Yadav et al. 2023, arXiv 2306.01708)
    DARE        tau_m b / p,   b ~ Bernoulli(p)                          (Yu et al. 2023, arXiv 2311.03099)

Every function takes one tensor of all models at once. Shapes: M models, ... the tensor's own.
"""

import torch
from torch import Generator, Tensor

from .sparsity import magnitude

STRAIGHT = 0.9995  # cosine from which on a straight line takes the place of the arc, whose sine has no inverse left


def weighted_sum(tasks: Tensor, weights: Tensor) -> Tensor:
    """(...): sum of what (M, ...) models learnt, each times its weight (M,)."""
    return torch.tensordot(weights, tasks, dims=1)


def linear(models: Tensor, weights: Tensor) -> Tensor:
    """(...): the weighted mean of (M, ...). What all models share stays to the bit."""
    return models[0] + weighted_sum(models - models[0], weights / weights.sum())


def slerp(models: Tensor, weights: Tensor) -> Tensor:
    """(...): the point on the arc from the first of (2, ...) to the second, the second's share of the weights (2,) along."""
    share = weights[1] / weights.sum()
    flat = models.reshape(2, -1)
    lengths = flat.norm(dim=1)
    cosine = (flat[0] @ flat[1]) / (lengths[0] * lengths[1])
    if not cosine.abs() < STRAIGHT:  # not a number where one of them is zero
        return linear(models, weights)
    angle = cosine.acos()
    parts = torch.stack([((1 - share) * angle).sin(), (share * angle).sin()]) / angle.sin()
    return weighted_sum(models, parts)


def trim(tasks: Tensor, density: float) -> Tensor:
    """(M, ...): each task vector with the share `density` of its entries, the largest by magnitude; zeros elsewhere."""
    return torch.stack([magnitude(task, 1 - density) for task in tasks])


def drop(tasks: Tensor, density: float, draw: Generator) -> Tensor:
    """(M, ...): each entry kept with the chance `density`, and divided by it, so that the mean over draws is what was given."""
    kept = torch.rand(tasks.shape, generator=draw, dtype=tasks.dtype) < density
    return torch.where(kept, tasks / density, 0)


def agreeing(tasks: Tensor, weights: Tensor) -> Tensor:
    """(M, ...) bool: where a task vector has the elected sign, that of the weighted sum. Where that is zero, none has it."""
    return (tasks.sign() == weighted_sum(tasks, weights).sign()) & tasks.ne(0)


def disjoint_sum(tasks: Tensor, weights: Tensor) -> Tensor:
    """(...): the weighted sum of the entries of (M, ...) that have the elected sign."""
    return weighted_sum(tasks * agreeing(tasks, weights), weights)


def disjoint_mean(tasks: Tensor, weights: Tensor) -> Tensor:
    """(...): the weighted mean of the entries of (M, ...) that have the elected sign; zero where there is none."""
    own = agreeing(tasks, weights)
    share = weighted_sum(own.to(tasks.dtype), weights)
    return torch.where(share > 0, weighted_sum(tasks * own, weights) / share, 0)


def conflicts(tasks: Tensor) -> Tensor:
    """(...) bool: where some of (M, ...) would raise a weight and others lower it."""
    return tasks.gt(0).any(0) & tasks.lt(0).any(0)
