"""What a model bought that learnt from its own answers: reward, paid for in distance from where it began.

More reward for more KL is the trade that alignment makes (Gao et al. 2023, arXiv 2210.10760): where reward still rises and
KL runs away, the policy has found what the reward pays for by the way. All is taken from the steps of a stage's log, which
may hold anything: what is no finite number is passed over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import fmean
from typing import NamedTuple

from posttrain.schema.record import Point

NEEDED = ("reward", "kl", "answer_tokens")
"""What every step of such a stage tells, and of no other stage."""
PART = 10  # the steps that a line of the table is the mean of: one in so many


class Series(NamedTuple):
    """A number of the log: its name there, what it is called, and its unit."""

    name: str
    title: str
    unit: str = ""


MAIN = (
    Series("reward", "reward"),
    Series("kl", "KL", "nats an answer"),
    Series("entropy", "entropy", "nats a token"),
    Series("answer_tokens", "answer length", "tokens"),
)
MORE = (
    Series("finished", "answers that end", "share"),
    Series("clipped", "clipped", "share"),
    Series("explained_variance", "critic: variance explained", "share"),
    Series("kl_coefficient", "price of KL", "reward a nat"),
)


class Part(NamedTuple):
    """The mean of each of MAIN over some steps; NaN where it was not told."""

    first: int
    last: int
    means: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Trade:
    """The steps of a stage that learnt from its own answers."""

    points: tuple[Point, ...]

    def across(self) -> list[tuple[float, float]]:
        """(KL, reward) of every step."""
        return [(point.told["kl"], point.told["reward"]) for point in self.points]

    def over_steps(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of every step that told it."""
        return [(float(p.step), p.told[name]) for p in self.points if isfinite(p.told.get(name, nan))]

    def parts(self) -> tuple[Part, ...]:
        """The beginning, the middle and the end, each a tenth of the steps."""
        n = max(1, len(self.points) // PART)
        starts = dict.fromkeys((0, (len(self.points) - n) // 2, len(self.points) - n))
        return tuple(_part(self.points[start : start + n]) for start in starts)


def trade(curve: Sequence[Point]) -> Trade | None:
    """What a stage's curve says; None where it did not learn from its own answers, or told of one step alone."""
    points = tuple(p for p in curve if all(isfinite(p.told.get(name, nan)) for name in NEEDED))
    return Trade(points) if len(points) > 1 else None


def _part(points: Sequence[Point]) -> Part:
    def mean(name: str) -> float:
        known = [p.told[name] for p in points if isfinite(p.told.get(name, nan))]
        return fmean(known) if known else nan

    return Part(points[0].step, points[-1].step, tuple(mean(series.name) for series in MAIN))
