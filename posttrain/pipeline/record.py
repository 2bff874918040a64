"""A run read back from its folder and the store: what its last start did, and how its artifacts were made."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain.engine.store import described
from posttrain.schema.artifacts import Artifact, Model, from_manifest
from posttrain.schema.errors import Damaged, UsageError
from posttrain.schema.events import Event, parse
from posttrain.schema.findings import Findings, Graded, from_dict
from posttrain.schema.record import GateResult, ModelRecord, Point, RunRecord, StageRecord

from .folder import EVENTS, PLAN, RECIPE
from .recipe import BASE

OF_EVERY_POINT = frozenset(("step", "of", "loss", "lr", "tokens", "tokens_per_s", "left_s"))
ENDLESS = 1e300  # what is larger is no number to draw
MADE_BY = "run"  # the fact of an artifact that names the run and stage that made it, as `quickstart-1/sft`


@dataclass
class History:
    """How one stage was made: its curve, the seconds it took over all attempts, and its alerts."""

    points: dict[int, Point] = field(default_factory=dict)
    seconds: float = 0.0
    alerts: list[str] = field(default_factory=list)

    @property
    def curve(self) -> tuple[Point, ...]:
        return tuple(self.points.values())

    def add(self, fields: Mapping[str, Any]) -> None:
        """One more point; an attempt that goes on from a checkpoint takes the place of what came after it."""
        step, loss = fields["step"], fields.get("loss")
        self.points = {before: point for before, point in self.points.items() if before < step}
        if loss is not None:
            lr, speed = fields.get("lr") or 0.0, fields.get("tokens_per_s") or 0.0
            self.points[step] = Point(step, loss, lr, speed, dict(_told(fields)))


def _told(fields: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a step that only some methods have."""
    for name, value in fields.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < ENDLESS
        if name not in OF_EVERY_POINT and is_number:
            yield name, float(value)


def history(events: Iterable[Event], stage: str) -> History:
    """The last making of a stage. An attempt that ended without an artifact belongs to the one that follows it."""
    found, finished, begun = History(), False, False
    started = last = 0.0
    for event in events:
        if event.fields.get("stage") != stage or "measure" in event.fields:
            continue
        begun = begun or event.kind == "stage_started"
        match event.kind:
            case _ if not begun:  # stopped before it began, or not needed: it took no time
                continue
            case "stage_started":
                found = History() if finished else replace(found, seconds=found.seconds + last - started)
                started, finished = event.time, False
            case "progress":
                found.add(event.fields)
            case "alert":
                found.alerts.append(event.fields["title"])
            case "stage_finished":
                found.seconds += event.fields["seconds"]
                started, finished = event.time, True
        last = event.time
    return found if finished else replace(found, seconds=found.seconds + last - started)


def read_run(folder: Path) -> RunRecord:
    """The record of a run. Raises UsageError when the folder holds none."""
    return _Reading(Path(folder)).record()


class _Reading:
    """One run's files, each read once."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        try:
            self.plan: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
            self.recipe = (folder / RECIPE).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{folder} is not the folder of a run ({error}). Name one that `posttrain run` made."
            ) from error
        self.runs: dict[str, list[Event]] = {}

    def events_of(self, run: str) -> list[Event]:
        """All events of this run or of one beside it; none when it is gone. A torn line may end inside a character."""
        if run not in self.runs:
            path = self.folder.parent / run / EVENTS
            self.runs[run] = list(parse(path.read_text(encoding="utf-8", errors="replace"))) if path.is_file() else []
        return self.runs[run]

    @cached_property
    def last(self) -> list[Event]:
        """The events since the run was last started."""
        events = self.events_of(self.folder.name)
        starts = [index for index, event in enumerate(events) if event.kind == "run_started"]
        return events[starts[-1] :] if starts else []

    def of_kind(self, *kinds: str) -> list[Event]:
        return [event for event in self.last if event.kind in kinds]

    def record(self) -> RunRecord:
        models = self.models()
        stages = tuple(self.stage(step, models) for step in self.plan["steps"])
        return RunRecord(
            name=self.folder.name,
            recipe=self.recipe,
            stages=stages,
            models=tuple(self.model_record(name, model) for name, model in models.items()),
            seconds=self.last[-1].time - self.last[0].time if self.last else 0.0,
            machine=next((m.environment for m in reversed(models.values()) if m.environment), {}),
            warnings=(*self.plan["notes"], *self.alerts(None)),
        )

    def artifact(self, event: Event) -> Artifact | None:
        """What an event says was made; None when it is no longer in the store."""
        try:
            return described(self.folder.parent / event.fields["folder"])
        except Damaged:
            return None

    @cached_property
    def made(self) -> dict[str, Artifact]:
        """Artifacts by the stage that made them."""
        found = {e.fields["stage"]: self.artifact(e) for e in self.of_kind("stage_kept", "stage_finished")}
        return {stage: artifact for stage, artifact in found.items() if artifact is not None}

    def models(self) -> dict[str, Model]:
        """The base and the model of every stage that made one, by name."""
        base = self.plan["base"]
        models: dict[str, Any] = {
            BASE: from_manifest(Path(base["path"]), {k: v for k, v in base.items() if k != "path"})
        }
        return models | {stage: made for stage, made in self.made.items() if isinstance(made, Model)}

    def model_record(self, name: str, model: Model) -> ModelRecord:
        measured = [event for event in self.of_kind("measured") if event.fields["model"] == name]
        findings = {e.fields["measure"]: read_findings(self.folder.parent / e.fields["folder"]) for e in measured}
        named = {measure: replace(found, name=measure) for measure, found in findings.items() if found}
        return ModelRecord(name, model.digest, str(model.path), model.form, model.bytes, named)

    def stage(self, step: Mapping[str, Any], models: Mapping[str, Model]) -> StageRecord:
        name = step["name"]
        made = self.made.get(name)
        run, _, stage = str(made.facts.get(MADE_BY, "") if made else "").partition("/")
        past = history(self.events_of(run or self.folder.name), stage or name)
        return StageRecord(
            name=name,
            method=step["method"],
            kind=step["kind"],
            source=step["source"],
            model=name if name in models else None,
            state=self.state(name),
            seconds=past.seconds,
            settings=step["settings"],
            facts={fact: value for fact, value in made.facts.items() if fact != MADE_BY} if made else {},
            curve=past.curve,
            gates=tuple(_gate(event) for event in self.of_kind("gate") if event.fields["stage"] == name),
            alerts=tuple(dict.fromkeys([*past.alerts, *self.alerts(name)])),
        )

    def state(self, stage: str) -> str:
        states = {
            "stage_kept": "kept",
            "stage_finished": "made",
            "failed": "failed",
            "stage_not_needed": "not needed",
        }
        told = [states[e.kind] for e in self.of_kind(*states) if e.fields.get("stage") == stage]
        return told[-1] if told else "not reached"

    def alerts(self, stage: str | None) -> list[str]:
        """What the last start warned of, about a stage or about the whole run."""
        return [event.fields["title"] for event in self.of_kind("alert") if event.fields.get("stage") == stage]


def _gate(event: Event) -> GateResult:
    value = event.fields["value"]
    return GateResult(
        event.fields["rule"],
        float("nan") if value is None else value,
        event.fields["limit"],
        event.fields["passed"],
        tuple(event.fields.get("changed", ())),
        event.fields.get("goes_on", False),
    )


def read_findings(folder: Path) -> Findings | None:
    """The findings in an artifact's folder; None when they are not there."""
    try:
        found = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
        lines = (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        return None
    return from_dict(found, tuple(Graded(**json.loads(line)) for line in lines if line))
