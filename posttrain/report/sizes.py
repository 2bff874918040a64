"""What models of unlike size are worth: bytes against quality, and which of them no other beats: none is as small and as good,
and either smaller or better.

Quality is `fidelity.kl` where it was measured, of the model that it is held against and of all that were made from that; else the
first benchmark. A model stands here where both its size and its quality were measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from posttrain.schema.findings import Findings, Metric
from posttrain.schema.record import ModelRecord, RunRecord

UNLIKE = 1.05  # times the bytes, from which sizes differ


@dataclass(frozen=True, slots=True)
class Place:
    """One model. `best` says that no other beats it."""

    model: str
    bytes: float
    quality: Metric
    best: bool


@dataclass(frozen=True, slots=True)
class Sizes:
    """Models from the smallest on, by a metric such as `fidelity.kl`."""

    measure: str
    metric: str
    places: tuple[Place, ...]

    @property
    def name(self) -> str:
        return f"{self.measure}.{self.metric}"

    @property
    def low_is_good(self) -> bool:
        return self.places[0].quality.better == "lower"

    def share(self, place: Place) -> float:
        """The bytes of a model, of those of the largest."""
        return place.bytes / max(each.bytes for each in self.places)


def sizes(record: RunRecord) -> Sizes | None:
    """What the models of a run are worth by their size; None where fewer than two were measured so, or all are as large."""
    found = next(_by(record, "fidelity"), None) or next(_by(record, "benchmark"), None)
    if found is None:
        return None
    measure, metric = found
    known = [
        (model.name, size, quality)
        for model in _siblings(record, measure)
        if (size := _bytes(model)) and (quality := _quality(model, measure, metric))
    ]
    if len(known) < 2 or max(size for _, size, _ in known) < UNLIKE * min(size for _, size, _ in known):
        return None
    return Sizes(measure, metric, tuple(_places(known)))


def _by(record: RunRecord, method: str) -> Iterator[tuple[str, str]]:
    """(measure, metric) of each that a method took of a model: its first metric."""
    for model in record.models:
        for name, findings in model.findings.items():
            if findings.measure == method and findings.metrics:
                yield name, next(iter(findings.metrics))


def _siblings(record: RunRecord, measure: str) -> Sequence[ModelRecord]:
    """The model that others are held against, and all that were made from it; every one where none is named."""
    notes = (found.notes for model in record.models if (found := model.findings.get(measure)))
    against = next((note["against"] for note in notes if isinstance(note.get("against"), str)), None)
    if against is None or against not in {model.name for model in record.models}:
        return record.models
    made_from: Mapping[str | None, str] = {stage.model: stage.source for stage in record.stages}
    return [model for model in record.models if against in _line(model.name, made_from)]


def _line(name: str, made_from: Mapping[str | None, str]) -> list[str]:
    """A model, and those that it was made from."""
    line = [name]
    while (source := made_from.get(line[-1])) and source not in line:
        line.append(source)
    return line


def _bytes(model: ModelRecord) -> float | None:
    sized = next((found for found in model.findings.values() if found.measure == "size"), None)
    metric = sized.metrics.get("bytes") if sized else None
    return metric.value if metric and isfinite(metric.value) and metric.value > 0 else None


def _quality(model: ModelRecord, measure: str, name: str) -> Metric | None:
    found: Findings | None = model.findings.get(measure)
    metric = found.metrics.get(name) if found else None
    return metric if metric and isfinite(metric.value) else None


def _places(known: Sequence[tuple[str, float, Metric]]) -> Iterator[Place]:
    for name, size, quality in sorted(known, key=lambda each: (each[1], -_worth(each[2]))):
        here = (-size, _worth(quality))
        others = ((-n_bytes, _worth(metric)) for _, n_bytes, metric in known)
        yield Place(name, size, quality, not any(_beats(other, here) for other in others))


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether one is as good in both ways, and better in one."""
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def _worth(quality: Metric) -> float:
    return -quality.value if quality.better == "lower" else quality.value
