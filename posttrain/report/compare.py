"""Two models side by side: what changed, how surely, which rows flipped, who wins.

Both models answered the same rows, so everything is computed row against row where the samples allow it. A change is
called clear when its 95 % interval leaves out zero and, for right-or-wrong scores, the exact test agrees.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import hypot, isclose, isfinite
from typing import Literal

from posttrain.functional.statistics import Estimate, is_binary, mcnemar, paired_difference, wins
from posttrain.schema.findings import Findings, Graded, Metric
from posttrain.schema.record import ModelRecord

Verdict = Literal["better", "worse", "changed", "no clear change"]
Pair = tuple[Graded, Graded]

# Fewer pairs cannot reach 5 % even when all agree: 2 · ½⁵ = 6 %, 2 · ½⁶ = 3 %.
FEWEST_PAIRS = 6
# A number without an interval is exact, yet a file that grew by ten bytes is no news; nor is the rounding of sums.
EXACT = 1e-3
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Change:
    """One metric before and after. `low` and `high` bound the difference; None where no interval makes sense.

    `verdict` is `changed` for metrics of which neither direction is better. `paired` says whether rows were compared
    with themselves.
    """

    measure: str
    metric: str
    before: Metric
    after: Metric
    difference: float
    low: float | None
    high: float | None
    verdict: Verdict
    paired: bool

    @property
    def name(self) -> str:
        return f"{self.measure}.{self.metric}"


@dataclass(frozen=True)
class Contrast:
    """The rows of one measure, paired. `gained` and `lost` are flips of right-or-wrong scores, `p` their exact test;
    `wins` is the share of rows that the second model answers better, ties half. None where it makes no sense. `right`
    is the score of a right row: 0 where a lower score is better."""

    measure: str
    pairs: tuple[Pair, ...]
    gained: tuple[Pair, ...] = ()
    lost: tuple[Pair, ...] = ()
    p: float | None = None
    wins: Estimate | None = None
    right: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """All that two models have in common, in the order of the measures."""

    before: str
    after: str
    changes: tuple[Change, ...]
    contrasts: tuple[Contrast, ...]

    def change(self, measure: str, metric: str) -> Change | None:
        return next((c for c in self.changes if (c.measure, c.metric) == (measure, metric)), None)


def compare(before: ModelRecord, after: ModelRecord) -> Comparison:
    """What `after` does differently from `before`, in every metric that both have."""
    changes: list[Change] = []
    contrasts: list[Contrast] = []
    for name, first in before.findings.items():
        second = after.findings.get(name)
        if second is None:
            continue
        pairs = _pairs(first.samples, second.samples)
        changes += _changes(first, second, pairs)
        if pairs:
            contrasts.append(_contrast(first, second, pairs))
    return Comparison(before.name, after.name, tuple(changes), tuple(contrasts))


def _pairs(before: Iterable[Graded], after: Iterable[Graded]) -> tuple[Pair, ...]:
    """Rows with the same id, in order; none at all unless both models answered the very same rows with finite scores."""
    first, second = dict(_numbered(before)), dict(_numbered(after))
    if first.keys() != second.keys():
        return ()
    pairs = tuple((row, second[key]) for key, row in first.items())
    return pairs if all(isfinite(a.score) and isfinite(b.score) for a, b in pairs) else ()


def _numbered(samples: Iterable[Graded]) -> Iterator[tuple[tuple[str, int], Graded]]:
    """A data set may ask the same thing twice: the second time is another row."""
    seen: Counter[str] = Counter()
    for row in samples:
        yield (row.id, seen[row.id]), row
        seen[row.id] += 1


def _scores(pairs: tuple[Pair, ...]) -> tuple[list[float], list[float]]:
    return [a.score for a, _ in pairs], [b.score for _, b in pairs]


def _is_mean(metric: Metric, scores: list[float]) -> bool:
    """Whether a metric is the mean of the scores, so that the rows speak for it."""
    return isclose(metric.value, sum(scores) / len(scores), rel_tol=1e-6, abs_tol=1e-6)


def _changes(first: Findings, second: Findings, pairs: tuple[Pair, ...]) -> Iterator[Change]:
    for name, before in first.metrics.items():
        after = second.metrics.get(name)
        if after is None:
            continue
        a, b = _scores(pairs)
        paired = bool(pairs) and _is_mean(before, a) and _is_mean(after, b)
        low, high = _paired_bounds(a, b) if paired else _joined_bounds(before, after)
        difference = after.value - before.value
        clear = _is_clear(before.value, after.value, low, high) and (not paired or _rows_agree(a, b))
        verdict = _verdict(difference, clear, after.better)
        yield Change(first.name, name, before, after, difference, low, high, verdict, paired)


def _paired_bounds(a: list[float], b: list[float]) -> tuple[float, float]:
    found = paired_difference(a, b)
    return found.low, found.high


def _joined_bounds(before: Metric, after: Metric) -> tuple[float | None, float | None]:
    """Two intervals joined as if the models had met different rows (MOVER): too wide rather than too narrow."""
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return None, None
    value = after.value - before.value
    low = value - hypot(after.value - after.low, before.high - before.value)
    return low, value + hypot(after.high - after.value, before.value - before.low)


def _is_clear(before: float, after: float, low: float | None, high: float | None) -> bool:
    if not isfinite(after - before):
        return False
    if low is None or high is None:
        return not isclose(before, after, rel_tol=EXACT)
    return (low > 0 or high < 0) and not isclose(before, after, rel_tol=ROUNDING)


def _rows_agree(a: list[float], b: list[float]) -> bool:
    """Whether there are rows enough, and the exact test of flips sees a change too."""
    if not (is_binary(a) and is_binary(b)):
        return len(a) >= FEWEST_PAIRS
    flips = [y - x for x, y in zip(a, b, strict=True)]
    return mcnemar(flips.count(1), flips.count(-1)) < 0.05


def _verdict(difference: float, clear: bool, better: str) -> Verdict:
    if not clear:
        return "no clear change"
    if better not in ("higher", "lower"):
        return "changed"
    return "better" if (difference > 0) == (better == "higher") else "worse"


def _contrast(first: Findings, second: Findings, pairs: tuple[Pair, ...]) -> Contrast:
    """The rows of a measure. Which way is up is said by the metric that is the mean of the scores of both models, else by
    the first."""
    a, b = _scores(pairs)
    both = [(m, second.metrics[name]) for name, m in first.metrics.items() if name in second.metrics]
    means = [before for before, after in both if _is_mean(before, a) and _is_mean(after, b)]
    metrics = [*means, *first.metrics.values()]
    better = metrics[0].better if metrics else "higher"
    sign = {"higher": 1, "lower": -1}.get(better)
    won = wins([sign * x for x in a], [sign * y for y in b]) if sign else None
    if sign is None or not (is_binary(a) and is_binary(b)):
        return Contrast(first.name, pairs, wins=won)
    gained = tuple(pair for pair in pairs if sign * pair[0].score < sign * pair[1].score)
    lost = tuple(pair for pair in pairs if sign * pair[0].score > sign * pair[1].score)
    return Contrast(first.name, pairs, gained, lost, mcnemar(len(gained), len(lost)), won, right=float(sign > 0))
