"""The record of a run, read back from its artifacts and events: all that a report is computed from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .findings import Findings


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a training curve. `told` is what else the step told, by name, such as `kl` or `accuracy`."""

    step: int
    loss: float
    lr: float = 0.0
    tokens_per_s: float = 0.0
    told: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateResult:
    """One limit of a recipe and what was found. `rule` is written as in the recipe; `changed` are prompts that are answered
    worse than before, where it does not hold, and `goes_on` says that another round followed then."""

    rule: str
    value: float
    limit: float
    passed: bool
    changed: tuple[str, ...] = ()
    goes_on: bool = False


@dataclass(frozen=True)
class StageRecord:
    """One stage: where its model came from (`source`), what it made (`model` is None when it made data)."""

    name: str
    method: str
    kind: str  # objective | transform | generator
    source: str
    model: str | None
    state: str  # kept | made | failed | not needed | not reached
    seconds: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    curve: tuple[Point, ...] = ()
    gates: tuple[GateResult, ...] = ()
    alerts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelRecord:
    """One model and all that was measured of it, by the measure's name in the recipe."""

    name: str
    digest: str
    path: str
    form: str
    bytes: int
    findings: Mapping[str, Findings] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """A run, in the order of its recipe. `models` starts with the base."""

    name: str
    recipe: str
    stages: tuple[StageRecord, ...]
    models: tuple[ModelRecord, ...]
    seconds: float = 0.0
    machine: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def model(self, name: str) -> ModelRecord:
        return next(model for model in self.models if model.name == name)
