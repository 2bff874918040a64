"""Findings: what a measure says of one model, in numbers with intervals and in samples one can read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


class Estimated(Protocol):
    """A number with its 95 % interval, and of how many rows it speaks, such as `functional.statistics.Estimate`."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def n(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Metric:
    """One number. `low` and `high` bound it at 95 %; they are None where no interval makes sense.

    `unit` is `share` (0..1, shown in per cent), or `nats`, `ratio`, `bytes`, `tokens/s`, `count`.
    `better` is `higher`, `lower` or `none`.
    """

    value: float
    n: int = 0
    low: float | None = None
    high: float | None = None
    unit: str = "share"
    better: str = "higher"

    @classmethod
    def of(cls, found: Estimated, unit: str = "share", better: str = "higher") -> "Metric":
        """What was estimated, as a metric."""
        return cls(found.value, found.n, found.low, found.high, unit, better)


@dataclass(frozen=True, slots=True)
class Graded:
    """One row that was measured. `id` is the same for every model, which makes comparisons paired."""

    id: str
    score: float
    prompt: str = ""
    expected: str = ""
    output: str = ""
    task: str = ""


@dataclass(frozen=True, slots=True)
class Flag:
    """What should make a reader look, in one line, and what to do about it."""

    title: str
    cure: str = ""


@dataclass(frozen=True)
class Findings:
    """What one measure (called `name` in the recipe) found on one model. `flags` become alerts of the run."""

    name: str
    measure: str
    metrics: Mapping[str, Metric]
    samples: tuple[Graded, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All but the samples, which are stored line by line."""
        return {
            "name": self.name,
            "measure": self.measure,
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
            "notes": dict(self.notes),
            "flags": [asdict(flag) for flag in self.flags],
        }


def from_dict(found: Mapping[str, Any], samples: tuple[Graded, ...] = ()) -> Findings:
    metrics = {name: Metric(**metric) for name, metric in found["metrics"].items()}
    flags = tuple(Flag(**flag) for flag in found.get("flags", ()))
    return Findings(found["name"], found["measure"], metrics, samples, found.get("notes", {}), flags)
