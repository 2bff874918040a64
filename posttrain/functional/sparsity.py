"""Which weights of a matrix to make zero, and how the others make up for it.

    magnitude   the smallest |w|                          of the whole matrix
    Wanda       the smallest |w| sqrt(G_jj)               of each row (Sun et al. 2023, arXiv 2306.11695)
    SparseGPT   the smallest w^2 / U_jj^2                 of each block of columns (Frantar and Alistarh 2023, arXiv 2301.00774)

G = sum over tokens of x x^T, what the layer reads. SparseGPT takes columns in order as GPTQ does: U is upper triangular, U^T U =
(G + lambda I)^-1, and a weight w_i that becomes zero is made up for by the weights behind it, W_:j -= (w_i / U_ii) U_ij. All of them
also know N:M, as many zeros within every M neighbours of a row.

Shapes: R rows, C columns.
"""

import numpy as np
import torch
from torch import Tensor

from .rounding import DAMP, inverse_factor

BLOCK = 128  # columns of which SparseGPT chooses at once


def lowest(scores: Tensor, share: float, of: int | None) -> Tensor:
    """(R, C) bool: where the lowest scores are, a share of each row; of every `of` neighbours where that is said."""
    rows, columns = scores.shape
    within = scores.reshape(rows, -1, of or columns)
    order = within.argsort(dim=-1, stable=True)
    n_zeros = round(share * within.shape[-1])
    return torch.zeros_like(within, dtype=torch.bool).scatter_(-1, order[..., :n_zeros], True).reshape(rows, columns)


def smallest(scores: Tensor, share: float) -> Tensor:
    """(...) bool: where the lowest scores of all are, a share of them; of equal ones the first. Nothing is sorted, which of
    a large tensor would take minutes."""
    flat = scores.flatten()
    n = round(share * len(flat))
    if n == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    limit = _nth(flat.detach(), n)
    below, level = flat < limit, flat == limit
    return (below | (level & (level.cumsum(0) <= n - below.sum()))).reshape(scores.shape)


def _nth(flat: Tensor, n: int) -> Tensor:
    """The n-th smallest entry, counted from 1; on a CPU numpy finds it thirty times as fast as torch."""
    return flat.kthvalue(n).values if flat.is_cuda else torch.from_numpy(np.partition(flat.numpy(), n - 1))[n - 1]


def magnitude(weight: Tensor, share: float, of: int | None = None) -> Tensor:
    """(R, C): the matrix without its smallest weights; without N:M any tensor."""
    scores = weight.abs()
    return weight.masked_fill(smallest(scores, share) if of is None else lowest(scores, share, of), 0)


def wanda(weight: Tensor, gram: Tensor, share: float, of: int | None = None) -> Tensor:
    """(R, C): the matrix without the weights of each row that contribute least."""
    return weight.masked_fill(lowest(weight.abs() * gram.diagonal().clamp(min=0).sqrt(), share, of), 0)


def sparsegpt(weight: Tensor, gram: Tensor, share: float, of: int | None = None, damp: float = DAMP) -> Tensor | None:
    """(R, C): the matrix with zeros, its other weights changed to make up for them. None where G has no inverse."""
    factor = inverse_factor(gram, damp)
    if factor is None:
        return None
    left, kept = weight.t().contiguous().clone(), torch.zeros_like(weight.t())
    for start in range(0, len(left), BLOCK):
        end = min(start + BLOCK, len(left))
        own = factor[start:end, start:end]
        kept[start:end], errors = _block(left[start:end].clone(), own, share, of)
        left[end:].addmm_(factor[start:end, end:].t(), errors, alpha=-1)
    return kept.t().contiguous()


def _block(left: Tensor, factor: Tensor, share: float, of: int | None) -> tuple[Tensor, Tensor]:
    """(B, R): what is left of a block of columns, and the errors that the columns behind it make up for."""
    kept, errors = torch.zeros_like(left), torch.zeros_like(left)
    diagonal = factor.diagonal()[:, None]
    zero = smallest((left / diagonal).square(), share) if of is None else torch.zeros_like(left, dtype=torch.bool)
    for i in range(len(left)):
        if of is not None and i % of == 0:  # chosen when their turn comes, as what is before them has changed them
            scores = (left[i : i + of] / diagonal[i : i + of]).square()
            zero[i : i + of] = lowest(scores.t(), share, None).t()
        kept[i] = left[i].masked_fill(zero[i], 0)
        errors[i] = (left[i] - kept[i]) / factor[i, i]
        left[i + 1 :].addr_(factor[i, i + 1 :], errors[i], alpha=-1)
    return kept, errors
