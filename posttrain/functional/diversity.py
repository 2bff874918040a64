"""How much sequences repeat themselves and one another, by n-grams of whatever they are made of.

    repetition   1 - distinct n-grams / n-grams            of one sequence (Welleck et al. 2020, arXiv 1908.04319: seq-rep-n)
    distinct     distinct n-grams / n-grams                of all together (Li et al. 2016, arXiv 1510.03055: distinct-n)

The interval of the second is a jackknife's: drawing sequences with replacement would repeat some by itself.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import sqrt

from .statistics import Estimate, Z


def ngrams(sequence: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """All runs of n, in order; none of a sequence that is shorter.

    >>> ngrams("abc", 2)
    [('a', 'b'), ('b', 'c')]
    """
    return [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]


def repetition(sequence: Sequence[Hashable], n: int) -> float:
    """The share of n-grams that came before in the sequence; 0 where it has none.

    >>> repetition("ababab", 2), repetition("abcdef", 2), repetition("a", 2)
    (0.6, 0.0, 0.0)
    """
    found = ngrams(sequence, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct(sequences: Sequence[Sequence[Hashable]], n: int) -> Estimate | None:
    """The share of n-grams that are different ones, of all sequences together; None where there are none. Of a single
    sequence with any the interval says nothing: it is from 0 to 1."""
    each = [found for sequence in sequences if (found := Counter(ngrams(sequence, n)))]
    within = Counter(gram for found in each for gram in found)  # in how many sequences each is
    total = sum(map(Counter.total, each))
    if not total:
        return None
    share = len(within) / total
    if len(each) < 2:
        return Estimate(share, 0.0, 1.0, len(each))
    left = [
        (len(within) - sum(within[gram] == 1 for gram in found)) / (total - found.total()) for found in each
    ]  # without one of them
    mean = sum(left) / len(left)
    half = Z * sqrt((len(left) - 1) / len(left) * sum((other - mean) ** 2 for other in left))
    return Estimate(share, max(0.0, share - half), min(1.0, share + half), len(each))
