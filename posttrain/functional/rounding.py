"""Weight matrices in few bits: to the nearest, or so that what a layer computes changes least.

    w  ~  s q + o        q an integer of `low` ... `high`; a scale s and an offset o for each row and group of columns

Nearest (RTN) rounds every weight by itself. GPTQ (Frantar et al. 2022, arXiv 2210.17323) rounds column after column and
lets those to come make up for the error. With G = sum over tokens of x x^T, what the layer reads, it lowers

    tr(D G D^T),    D = W - (s q + o)        the squared change of the layer's outputs

lambda is a small share of the mean of G's diagonal, and about C / 2n of it more where n tokens are few for C columns: what they
seem to say of how inputs go together can make others worse than rounding to nearest does. With U upper triangular and
U^T U = (G + lambda I)^-1, a column i leaves e = (w_i - (s q_i + o)) / U_ii behind, and W_:j -= e U_ij for all j > i.
Columns go by falling G_ii, as those that matter most should find most others left to help;
scales are those of the unchanged weights, so that groups stay where they are ("static" order: nothing to look up later).

Shapes: R rows (outputs), C columns (inputs), K groups in a row, each of C / K columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

BLOCK = 128  # columns that are rounded before the rest hears of their errors, in one large product
DAMP = 0.01  # of the mean of G's diagonal, added to it
DAMPING = (1, 10, 100)  # times that, until the Gram matrix has an inverse
MANY = 8  # tokens for each column; of fewer, little is believed
SHRINKS = 24  # narrower scales that a search tries, down to the half


class Rounded(NamedTuple):
    """A matrix in few bits: (R, C) int8; (R, K); (R, K)."""

    ints: Tensor
    scale: Tensor
    offset: Tensor

    def dense(self) -> Tensor:
        """(R, C): what the integers stand for."""
        of = self.ints.shape[1] // self.scale.shape[1]
        return self.ints.to(self.scale.dtype) * self.scale.repeat_interleave(of, 1) + self.offset.repeat_interleave(
            of, 1
        )


class Grid(Protocol):
    """Which numbers a group of weights may become."""

    @property
    def low(self) -> int: ...
    @property
    def high(self) -> int: ...
    @property
    def group(self) -> int | None:
        """Columns that share a scale; a whole row if None."""

    @property
    def offset_scales(self) -> bool:
        """Whether an offset is a number of steps, so that it goes with its scale."""

    def fit(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """(R, K, C / K) -> the scale and the offset of each group, (R, K), as they will be stored."""

    def rescaled(self, wanted: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """The scale nearest to a wanted one that can be stored in place of `scale`, and the offset that goes with it."""


@runtime_checkable
class Searching(Grid, Protocol):
    """A grid whose groups depend on one another, so that it must look for all of their scales itself."""

    def search(self, groups: Tensor, matters: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `fit`, with how much each column of a group matters, (K, C / K)."""


@dataclass(frozen=True)
class Integers:
    """Integers of some bits around zero, or anywhere if not `symmetric`. Scales are rounded to `dtype` before any weight
    is, or what is stored would not be what was solved for. Where zeros are stored less one (`zero_above_low`), none may be the
    lowest integer."""

    bits: int
    group: int | None = None
    symmetric: bool = True
    dtype: torch.dtype = torch.float32
    zero_above_low: bool = False

    @property
    def low(self) -> int:
        return -(1 << self.bits - 1)

    @property
    def high(self) -> int:
        return (1 << self.bits - 1) - 1

    def fit(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        steps = self.high - self.low
        if self.symmetric:
            scale = self._stored(groups.abs().amax(-1) / (steps / 2))
            return scale, torch.zeros_like(scale)
        least, most = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)  # zero stays zero
        if self.zero_above_low:
            least = torch.minimum(least, -most / (steps - 1))
        scale = self._stored((most - least) / steps)
        zero = (self.low - least / scale).round().clamp(self.low, self.high)
        return scale, -scale * zero

    @property
    def offset_scales(self) -> bool:
        return True

    def rescaled(self, wanted: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        zero = (-offset / scale).round()
        scale = self._stored(wanted)
        return scale, -scale * zero

    def _stored(self, scale: Tensor) -> Tensor:
        scale = scale.to(self.dtype).to(scale.dtype)
        return torch.where(scale > 0, scale, torch.ones_like(scale))  # a group of zeros


def fit(weight: Tensor, grid: Grid, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The scale and offset of every group of a matrix, (R, K). With the `importance` of columns, (C,), such as how large
    their inputs are, a group may give up its largest weights where that lowers the weighted squared error."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, -1, grid.group or columns)
    if importance is not None and isinstance(grid, Searching):
        return grid.search(groups, importance.reshape(groups.shape[1:]))
    best = grid.fit(groups)
    if importance is None:
        return best
    matters = importance.reshape(groups.shape[1:])
    least = _error(groups, matters, grid, best)
    for shrink in torch.linspace(1, 0.5, SHRINKS + 1)[1:].tolist():
        tried = grid.fit(groups * shrink)
        error = _error(groups, matters, grid, tried)
        better = error < least
        least = torch.where(better, error, least)
        best = (torch.where(better, tried[0], best[0]), torch.where(better, tried[1], best[1]))
    return best


def _error(groups: Tensor, matters: Tensor, grid: Grid, scales: tuple[Tensor, Tensor]) -> Tensor:
    """(R, K): the weighted squared error of each group."""
    scale, offset = (x[..., None] for x in scales)
    nearest = ((groups - offset) / scale).round_().clamp_(grid.low, grid.high).mul_(scale).add_(offset)
    return nearest.sub_(groups).square_().mul_(matters).sum(-1)


def nearest(weight: Tensor, grid: Grid, scales: tuple[Tensor, Tensor] | None = None) -> Rounded:
    """Every weight to the closest number of its group."""
    rows, columns = weight.shape
    scale, offset = scales or fit(weight, grid)
    groups = weight.reshape(rows, -1, grid.group or columns)
    ints = ((groups - offset[..., None]) / scale[..., None]).round_().clamp_(grid.low, grid.high)
    return Rounded(ints.reshape(rows, columns).to(torch.int8), scale, offset)


def gptq(
    weight: Tensor, gram: Tensor, grid: Grid, damp: float = DAMP, scales: tuple[Tensor, Tensor] | None = None
) -> Rounded | None:
    """GPTQ's rounding of a matrix (R, C) by the Gram matrix of its inputs (C, C). None where that has no inverse, however
    it is damped: there are too few inputs, or they hold no numbers."""
    order = gram.diagonal().argsort(descending=True, stable=True)
    factor = inverse_factor(gram[order][:, order], damp)
    if factor is None:
        return None
    rows, columns = weight.shape
    scale, offset = scales or fit(weight, grid)
    of = order // (grid.group or columns)
    ints = solve(weight.t()[order], factor, scale.t()[of], offset.t()[of], (grid.low, grid.high))
    found = torch.empty(columns, rows, dtype=torch.int8, device=weight.device)
    found[order] = ints
    return Rounded(found.t().contiguous(), scale, offset)


def corrected(weight: Tensor, gram: Tensor, drift: Tensor, share: float, damp: float) -> Tensor:
    """(R, C): the weights that give, for what a layer reads now, what the given ones gave for what it read when nothing before
    it was rounded (Li et al. 2025, arXiv 2504.02692): W + share W E (G + lambda I)^-1, E = sum over tokens of (x_0 - x) x^T.
    The whole of it would learn the texts by heart where they are few. As they are if G has no inverse."""
    damped = gram.clone()
    damped.diagonal().add_(damp * gram.diagonal().mean())
    lower, failed = torch.linalg.cholesky_ex(damped)
    return weight if failed else weight + share * torch.cholesky_solve((weight @ drift).t(), lower).t()


def damping(damp: float, columns: int, tokens: int) -> float:
    """The share of the mean of G's diagonal that is added to it, where so many tokens make up what is known of the columns:
    `damp` where they are MANY for each."""
    return damp + max(0.0, columns / tokens - 1 / MANY) / 2


def inverse_factor(gram: Tensor, damp: float) -> Tensor | None:
    """U, (C, C), upper triangular with U^T U = (G + lambda I)^-1, lambda a share `damp` of the mean of G's diagonal, raised
    until the inverse exists. A column that no token reached is left to itself."""
    mean = gram.diagonal().mean()
    if not (mean > 0 and mean.isfinite()):
        return None
    for times in DAMPING:
        lower, failed = torch.linalg.cholesky_ex(damped(gram, damp * times))
        if not failed:
            factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return factor
    return None


def damped(gram: Tensor, share: float) -> Tensor:
    """(C, C): G with a share of the mean of its diagonal added to it; a column that no token reached gets the mean."""
    found, mean = gram.clone(), gram.diagonal().mean()
    found.diagonal().add_(share * mean + (gram.diagonal() == 0) * mean)
    return found


def solve(columns: Tensor, factor: Tensor, scale: Tensor, offset: Tensor, bounds: tuple[int, int]) -> Tensor:
    """(C, R) int8: the rounding of a transposed matrix (C, R), whose columns lie one behind the other, in their order. Each
    has its own scale and offset, (C, R)."""
    left = columns.clone(memory_format=torch.contiguous_format)
    ints = torch.empty_like(left, dtype=torch.int8)
    for start, end in column_blocks(len(left)):
        errors, own = torch.empty_like(left[start:end]), factor[start:end, start:end]
        for i in range(start, end):
            q = ((left[i] - offset[i]) / scale[i]).round_().clamp_(*bounds)
            ints[i] = q
            error = left[i].sub(q.mul_(scale[i]).add_(offset[i])).div_(own[i - start, i - start])
            errors[i - start] = error
            left[i + 1 : end].addr_(own[i - start, i - start + 1 :], error, alpha=-1)
        left[end:].addmm_(factor[start:end, end:].t(), errors, alpha=-1)
    return ints


def column_blocks(n: int) -> Iterator[tuple[int, int]]:
    """Where each block of some columns starts and ends."""
    return ((start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def nearest_per_token(x: Tensor, bits: int = 8) -> Tensor:
    """(..., C) -> (..., C): each token's values to the nearest of so many integers around zero, as compressed-tensors does
    while a model computes. The largest value of a token sets its scale: s = max |x| / (2^bits - 1) * 2."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    scale = x.abs().amax(-1, keepdim=True).float() / ((high - low) / 2)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a token of zeros
    return (x / scale).round_().clamp_(low, high).mul_(scale).to(x.dtype)


def nearest_of_scale(x: Tensor, scale: Tensor, bits: int = 8) -> Tensor:
    """(..., C) -> (..., C): values to the nearest of so many integers around zero times a scale. It is multiplied by what Model
    Optimizer multiplies by: a value halfway between two integers falls the other way where the last bit differs."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    inverse = high / (scale * high)  # it computes this of the largest value
    return (x * inverse).round_().clamp_(low, high).div_(inverse).to(x.dtype)


def output_error(weight: Tensor, rounded: Tensor, gram: Tensor) -> float:
    """How much of a layer's output a change of its weights makes out: tr(D G D^T) / tr(W G W^T)."""
    change = weight - rounded
    return float(((change @ gram) * change).sum() / ((weight @ gram) * weight).sum().clamp(min=1e-30))
