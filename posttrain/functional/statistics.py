"""How sure one may be of a rate, a mean, a difference: 95 % intervals and exact tests, on plain numbers.

Rates       Wilson score interval                       Wilson 1927
Means       percentile bootstrap, seeded                Efron 1979
Differences of two models on the same rows:
            0/1 scores: Newcombe's paired score interval, "method 10"     Newcombe 1998, Statistics in Medicine 17
            other scores: bootstrap of the row differences
Flips       McNemar's exact test                        McNemar 1947
Wins        Wilson's interval with a tie as half a win (a little too wide, as a tie varies less than a win or a loss)
"""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # the normal distribution holds 95 % between -Z and Z
RESAMPLES = 2000
BLOCK = 1_000_000  # numbers drawn at once, which bounds the memory of a bootstrap to some 16 MB

Scores = Sequence[float] | NDArray[np.float64]


class Estimate(NamedTuple):
    """A number, its 95 % interval, and of how many rows it speaks."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int) -> Estimate:
    """The share `successes / n`. Half successes (ties) may be counted. Raises ValueError unless 0 <= successes <= n > 0.

    >>> wilson(0, 10).high == Z**2 / (10 + Z**2)
    True
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a share needs 0 <= successes <= n and n > 0, not {successes} of {n}")
    share, shrink = successes / n, 1 + Z**2 / n
    centre = (share + Z**2 / (2 * n)) / shrink
    half = Z / shrink * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else centre - half  # rounding would leave 1e-17
    high = 1.0 if successes == n else centre + half
    return Estimate(share, low, high, n)


def bootstrap_mean(values: Scores, seed: int = 0) -> Estimate:
    """The mean of `values`; the same values and seed give the same interval. Raises ValueError without finite values."""
    rows = _finite(values)
    draw = np.random.default_rng(seed)
    at_once = max(1, BLOCK // len(rows))
    means = [
        rows[draw.integers(len(rows), size=(min(at_once, RESAMPLES - done), len(rows)))].mean(axis=1)
        for done in range(0, RESAMPLES, at_once)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Estimate(float(rows.mean()), float(low), float(high), len(rows))


def paired_difference(before: Scores, after: Scores, seed: int = 0) -> Estimate:
    """The mean of `after - before`, row by row. Raises ValueError when the rows do not pair up."""
    first, second = _pairs(before, after)
    if is_binary(first) and is_binary(second):
        return _newcombe(first, second)
    return bootstrap_mean(second - first, seed)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p of `gained` rows turning right and `lost` turning wrong, were both as likely.

    Twice the smaller tail of a fair coin thrown gained + lost times:

    >>> mcnemar(5, 0), mcnemar(3, 1), mcnemar(0, 0)     # 2/32, 2 * (1 + 4)/16, nothing flipped
    (0.0625, 0.625, 1.0)
    """
    flips, tail, ways = gained + lost, 0, 1
    for k in range(min(gained, lost) + 1):
        tail += ways
        ways = ways * (flips - k) // (k + 1)  # C(flips, k + 1)
    return min(1.0, 2 * tail / (1 << flips))


def wins(before: Scores, after: Scores) -> Estimate:
    """The share of rows where `after` scores higher than `before`; a tie is half a win. Raises ValueError as above."""
    first, second = _pairs(before, after)
    return wilson(float(np.sum(second > first) + np.sum(second == first) / 2), len(first))


def groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Name -> the places where it stands, by name; nothing where all have the same name, as the whole is the group then.

    >>> groups(["b", "a", "b"]), groups(["a", "a"])
    ({'a': [1], 'b': [0, 2]}, {})
    """
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return dict(sorted(found.items())) if len(found) > 1 else {}


def is_binary(values: Scores) -> bool:
    """Whether every score is 0 or 1, so that rows are simply right or wrong."""
    return bool(np.isin(np.asarray(values), (0.0, 1.0)).all())


def _newcombe(before: NDArray[np.float64], after: NDArray[np.float64]) -> Estimate:
    """Two Wilson intervals joined, with the correlation of the two columns taken out.

    both, gained, lost, neither: rows right in both, only after, only before, in none.
    """
    n = len(before)
    both, gained = float(np.sum(before * after)), float(np.sum((1 - before) * after))
    lost = float(np.sum(before * (1 - after)))
    neither = n - both - gained - lost
    first, second = wilson(both + lost, n), wilson(both + gained, n)
    phi = _correlation(both, gained, lost, neither)
    down, up = second.value - second.low, first.high - first.value
    low = sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))
    down, up = first.value - first.low, second.high - second.value
    high = sqrt(max(0.0, up**2 - 2 * phi * up * down + down**2))
    value = (gained - lost) / n
    return Estimate(value, max(-1.0, value - low), min(1.0, value + high), n)


def _correlation(both: float, gained: float, lost: float, neither: float) -> float:
    """Phi of a two by two table; a positive one is drawn towards 0, as Newcombe's continuity correction asks."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    product = both * neither - gained * lost
    n = both + gained + lost + neither
    return (product if product < 0 else max(0.0, product - n / 2)) / sqrt(margins)


def _pairs(before: Scores, after: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _finite(before), _finite(after)
    if len(first) != len(second):
        raise ValueError(f"paired scores need the same rows, not {len(first)} and {len(second)}")
    return first, second


def _finite(values: Scores) -> NDArray[np.float64]:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 1 or not len(rows) or not np.isfinite(rows).all():
        raise ValueError("scores must be a non-empty row of finite numbers")
    return rows
