"""Over how many seeds effects are shown: three with `make effects`, the first of them with `make test`."""

import os

SEEDS = range(int(os.environ.get("SEEDS", "1")))
MARGIN = 0.03
"""By how much one seed alone may miss a limit that the mean of the seeds holds."""


def at_least(limit: float, values: list[float]) -> bool:
    """Whether the mean of the seeds holds a limit, and each of them but for the margin."""
    return sum(values) / len(values) >= limit and min(values) >= limit - MARGIN
