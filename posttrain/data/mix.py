"""Mixing: how many rows of each set are used, and in which order.

A set of n rows may be read up to e (`epochs`) times. Without weights it is read e times. With weights w, the sets stand
in the ratio of their weights, and the mix is as long as the first set to be used up allows:

    k_i = w_i N,    N = min_i  e_i n_i / w_i,    w scaled to sum to 1

A set is read whole as often as k allows; what is left over is a random part of it, so that no row is used twice before
each was used once.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

from posttrain.functional.seeds import seed_of
from posttrain.schema.errors import DataError

R = TypeVar("R")


def counts(sizes: Sequence[int], weights: Sequence[float | None], epochs: Sequence[float]) -> list[int]:
    """How many rows of each set are used. A set without a weight beside one with has the weight 1.

    >>> counts([1000, 100], [0.9, 0.1], [1, 1])
    [900, 100]
    >>> counts([1000, 100], [None, None], [1, 2.5])
    [1000, 250]
    """
    most = [n * e for n, e in zip(sizes, epochs, strict=True)]
    if all(weight is None for weight in weights):
        return [round(n) for n in most]
    given = [1.0 if weight is None else weight for weight in weights]
    each = min(n / weight for n, weight in zip(most, given, strict=True))
    return [round(weight * each) for weight in given]


def order(sizes: Sequence[int], used: Sequence[int], seed: int) -> list[tuple[int, int]]:
    """(set, row) of every row of the mix, shuffled; the same for the same seed."""
    drawn: list[tuple[int, int]] = []
    for which, (size, n) in enumerate(zip(sizes, used, strict=True)):
        whole, rest = divmod(n, size)
        part = random.Random(seed_of(seed, which)).sample(range(size), rest)
        drawn += [(which, row) for _ in range(whole) for row in range(size)] + [(which, row) for row in part]
    random.Random(seed_of(seed, len(sizes))).shuffle(drawn)
    return drawn


def mixed(
    sets: Sequence[Sequence[R]], weights: Sequence[float | None], epochs: Sequence[float], seed: int
) -> tuple[list[R], list[str]]:
    """The rows of a mix in its order, and a line that says what is in it; as they are, and no line, where nothing is
    said of weights and epochs. Raises DataError when a set gives none."""
    if all(weight is None for weight in weights) and all(n == 1 for n in epochs):
        return [row for rows in sets for row in rows], []
    sizes = [len(rows) for rows in sets]
    used = counts(sizes, weights, epochs)
    if 0 in used:
        raise DataError(
            f"Source {used.index(0) + 1} of {len(used)} gives no row to the mix. Raise its `weight` or its `epochs`."
        )
    line = " + ".join(f"{k} of {n} rows ({k / n:.2f} epochs)" for k, n in zip(used, sizes, strict=True))
    return [sets[which][row] for which, row in order(sizes, used, seed)], [f"mix of {sum(used)} rows: {line}"]
