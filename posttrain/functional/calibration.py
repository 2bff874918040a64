"""Whether scores of answers and verdicts on them can be trusted: are they as sure as they are right, do they go by length,
and how often do people see the same.

    confidence     c = sigmoid |m|, m the margin of a pair      how sure Bradley-Terry's model is of the higher score
    error          sum over bins of c  W | mean c - share of m > 0 |      expected calibration error (Guo et al. 2017,
                                                                          arXiv 1706.04599), W a bin's share of the weight
    correlation    of what is left of two values of an answer without their means over the answers to its prompt
    sensitivity    Se = share of answers with a property that a judge says have it
    specificity    Sp = share of answers without it of which he does not say so
    true share     (t + Sp - 1) / (Se + Sp - 1), t the share of all of which he says so (Rogan & Gladen 1978, American
                   Journal of Epidemiology 107), with the interval of Lang & Reiczigel 2014, Preventive Veterinary
                   Medicine 113: Se, Sp and t are estimates, and their errors add up

Intervals are percentile bootstraps that draw whole groups (prompts), as pairs of one prompt share answers. That of the
error leans upwards, as every draw looks less even than the rows it is from. Shapes: M pairs, B answers, G groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, hypot, log10, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posttrain.schema.verdicts import Clear

from .statistics import BLOCK, RESAMPLES, Estimate, Z, wilson

Values = Sequence[float] | NDArray[np.float64]
Groups = Sequence[int] | NDArray[np.int64]


class Bin(NamedTuple):
    """Pairs of like confidence: from `low` to `high`, `n` of them, with their mean confidence and their share that is
    right, by weight."""

    low: float
    high: float
    n: int
    confidence: float
    right: float


def confidence(margins_M: Values) -> NDArray[np.float64]:
    """(M,) -> (M,): sigmoid of the margin's size.

    >>> confidence([0.0, np.log(3), -np.log(3)]).tolist()
    [0.5, 0.75, 0.75]
    """
    found: NDArray[np.float64] = 1 / (1 + np.exp(-np.abs(np.asarray(margins_M, np.float64))))
    return found


def reliability(margins_M: Values, weights_M: Values, n_bins: int = 10) -> list[Bin]:
    """How often pairs of like confidence are right: equal bins from 1/2 to 1, without the empty ones. No margin at all is
    not right."""
    margins, weights = (np.asarray(each, np.float64) for each in (margins_M, weights_M))
    sure, place = confidence(margins), _places(margins, n_bins)
    bins = []
    for n in np.unique(place):
        inside = place == n
        w = weights[inside] / weights[inside].sum()
        low, high = (0.5 + k * 0.5 / n_bins for k in (n, n + 1))
        right = min(float(w @ (margins[inside] > 0)), 1.0)  # rounding would leave a little more
        bins.append(Bin(float(low), float(high), int(inside.sum()), float(w @ sure[inside]), right))
    return bins


def _places(margins: NDArray[np.float64], n_bins: int) -> NDArray[np.int64]:
    """The bin of every pair."""
    return np.minimum(((confidence(margins) - 0.5) * 2 * n_bins).astype(np.int64), n_bins - 1)


def calibration_error(
    margins_M: Values, weights_M: Values, groups_M: Groups, n_bins: int = 10, seed: int = 0
) -> Estimate:
    """The expected calibration error of pairs in groups; its interval holds it always. Raises ValueError without pairs."""
    margins, weights = (np.asarray(each, np.float64) for each in (margins_M, weights_M))
    _, groups = np.unique(np.asarray(groups_M), return_inverse=True)
    if not len(margins):
        raise ValueError("a calibration error needs at least one pair")
    n, place = int(groups.max()) + 1, _places(margins, n_bins)
    gaps = np.zeros((n, n_bins))
    np.add.at(gaps, (groups, place), weights * (confidence(margins) - (margins > 0)))
    sums = np.hstack([gaps, np.bincount(groups, weights)[:, None]])

    def error(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.abs(sums[..., :-1]).sum(-1) / sums[..., -1]
        return found

    value, drawn = float(error(sums.sum(0))), error(_redrawn(sums, seed))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def correlation_within(one_B: Values, other_B: Values, groups_B: Groups, seed: int = 0) -> Estimate:
    """Pearson's correlation of two values of answers within groups: what differs from group to group is left out. 0 where
    one of them never differs within a group. Raises ValueError without answers."""
    values = np.stack([np.asarray(one_B, np.float64), np.asarray(other_B, np.float64)], 1)
    _, groups = np.unique(np.asarray(groups_B), return_inverse=True)
    if not len(values):
        raise ValueError("a correlation needs at least one answer")
    n = int(groups.max()) + 1
    means = np.zeros((n, 2))
    np.add.at(means, groups, values)
    left = values - (means / np.bincount(groups)[:, None])[groups]
    sums = np.zeros((n, 3))
    np.add.at(sums, groups, np.stack([left[:, 0] * left[:, 1], left[:, 0] ** 2, left[:, 1] ** 2], 1))

    def correlation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        spread = np.sqrt(sums[..., 1] * sums[..., 2])
        return np.divide(sums[..., 0], spread, out=np.zeros_like(spread), where=spread > 0)

    low, high = np.quantile(correlation(_redrawn(sums, seed)), (0.025, 0.975))
    return Estimate(float(correlation(sums.sum(0))), float(low), float(high), n)


def _redrawn(sums_GK: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """(G, K) -> (RESAMPLES, K): sums over G groups drawn with replacement, again and again."""
    draw, n = np.random.default_rng(seed), len(sums_GK)
    at_once = max(1, BLOCK // n)
    parts = [
        draw.multinomial(n, np.full(n, 1 / n), size=min(at_once, RESAMPLES - done)) @ sums_GK
        for done in range(0, RESAMPLES, at_once)
    ]
    return np.concatenate(parts)


class Histogram(NamedTuple):
    """Counts between neighbouring edges, of which there is one more; edges are multiples of a round width."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def histogram(values: Values, most: int = 20) -> Histogram:
    """How many values lie where, in at most `most` + 1 bins whose width is 1, 2 or 5 times a power of ten.

    >>> histogram([-0.4, 0.1, 0.3, 1.9], most=3)
    Histogram(edges=(-1.0, 0.0, 1.0, 2.0), counts=(1, 2, 1))
    """
    found = np.asarray(values, np.float64)
    if not len(found):
        return Histogram((), ())
    low, high = float(found.min()), float(found.max())
    span = (high - low) or max(abs(high), 1.0)
    power = 10.0 ** floor(log10(span / most))
    width = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= most)
    first, last = floor(low / width), max(ceil(high / width), floor(low / width) + 1)
    edges = tuple(round(i * width, 12) for i in range(first, last + 1))
    places = np.clip(np.searchsorted(edges, found, side="right") - 1, 0, len(edges) - 2)
    return Histogram(edges, tuple(map(int, np.bincount(places, minlength=len(edges) - 1))))


class Said(NamedTuple):
    """How many answers got which verdict."""

    complied: int = 0
    refused: int = 0
    unclear: int = 0

    @property
    def n(self) -> int:
        return sum(self)


@dataclass(frozen=True)
class Calibration:
    """What a judge said of answers that comply, and of answers that refuse, as people see them. To be `unclear` is not to
    say what one is asked for, here and wherever the judge is used, so it needs no place of its own in the shares."""

    complied: Said
    refused: Said

    def sensitivity(self, of: Clear = "complied") -> Estimate:
        """The share of answers that are `of` this kind and that the judge calls so. Raises ValueError without any."""
        return wilson(getattr(self._with(of), of), self._with(of).n)

    def specificity(self, of: Clear = "complied") -> Estimate:
        """The share of the other answers that the judge does not call so. Raises ValueError without any."""
        return wilson(self._without(of).n - getattr(self._without(of), of), self._without(of).n)

    def informs(self, of: Clear = "complied") -> bool:
        """Whether the judge surely tells the two apart: whether Se + Sp - 1 is above 0 with its error (Newcombe 1998,
        method 10 for two shares)."""
        if not self._with(of).n or not self._without(of).n:
            return False
        se, sp = self.sensitivity(of), self.specificity(of)
        return se.value + sp.value - 1 - hypot(se.value - se.low, sp.value - sp.low) > 0

    def corrected(self, said: int, n: int, of: Clear = "complied") -> Estimate:
        """The true share `of` this kind among n answers, of which the judge called `said` so. Raises ValueError for a
        judge who cannot tell, and unless 0 <= said <= n > 0."""
        apparent = wilson(said, n).value
        if not self.informs(of):
            raise ValueError("nothing can be corrected by a judge who does not tell the two kinds apart")
        se, sp = self.sensitivity(of), self.specificity(of)
        share = _between((apparent + sp.value - 1) / (se.value + sp.value - 1))
        middle, half = _lang_reiczigel(Estimate(apparent, 0, 1, n), se, sp)
        low, high = _between(middle - half), _between(middle + half)
        return Estimate(share, min(low, share), max(high, share), n)

    def _with(self, of: Clear) -> Said:
        return self.complied if of == "complied" else self.refused

    def _without(self, of: Clear) -> Said:
        return self.refused if of == "complied" else self.complied


def _lang_reiczigel(apparent: Estimate, se: Estimate, sp: Estimate) -> tuple[float, float]:
    """(middle, half width) of the interval: every share is drawn a little to one half before their errors are joined."""
    n = apparent.n + Z**2
    t = (apparent.n * apparent.value + Z**2 / 2) / n
    sure, unsure = ((each.n * each.value + 1) / (each.n + 2) for each in (se, sp))
    by_se, by_sp = sure * (1 - sure) / (se.n + 2), unsure * (1 - unsure) / (sp.n + 2)
    youden = sure + unsure - 1
    share = (t + unsure - 1) / youden
    shift = 2 * Z**2 * (share * by_se - (1 - share) * by_sp)
    spread = sqrt(t * (1 - t) / n + share**2 * by_se + (1 - share) ** 2 * by_sp) / abs(youden)
    return share + shift, Z * spread


def _between(share: float) -> float:
    return min(max(share, 0.0), 1.0)
