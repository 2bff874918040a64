"""Ratios of sums over rows of unequal size, such as nats per token over documents.

R = sum(a) / sum(b),   se(R) = sd(a_i - R b_i) / (mean(b) sqrt(n))     (linearised; rows are the independent units)
"""

from collections.abc import Sequence

import numpy as np

from .statistics import Estimate, Z


def ratio_of_sums(tops: Sequence[float], bottoms: Sequence[float]) -> Estimate:
    """sum(tops) / sum(bottoms) with its 95 % interval. Raises ValueError when the bottoms sum to nothing.

    >>> ratio_of_sums([2.0, 4.0], [1.0, 2.0]).value
    2.0
    """
    a, b = np.asarray(tops, dtype=np.float64), np.asarray(bottoms, dtype=np.float64)
    if len(a) != len(b) or not b.sum() > 0:
        raise ValueError("a ratio needs as many tops as bottoms, and bottoms that sum to more than nothing")
    ratio = float(a.sum() / b.sum())
    spread = float((a - ratio * b).std(ddof=1)) if len(a) > 1 else float("nan")
    half = Z * spread / (float(b.mean()) * len(a) ** 0.5)
    return Estimate(ratio, ratio - half, ratio + half, len(a))
