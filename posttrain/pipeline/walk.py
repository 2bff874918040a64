"""Walking a plan: keep or make each step, measure each model, hold it to its gates, and tell every event."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.engine.store import Store
from posttrain.schema.artifacts import Artifact, Model
from posttrain.schema.errors import PosttrainError, RecipeError, Stopped, nearest
from posttrain.schema.findings import Findings

from . import alerts
from .events import Events
from .gates import judged
from .leaks import Leaks
from .plan import Plan
from .recipe import BASE, Gate
from .record import read_findings
from .step import Step
from .work import Outside, Work, base_of, given, of_model


@dataclass
class Walk:
    """A plan on its way. `made` are the artifacts by step, `found` the findings by (model, measure)."""

    plan: Plan
    store: Store
    outside: Outside
    events: Events
    run: str
    stop: Callable[[], bool]
    made: dict[str, Artifact] = field(default_factory=dict)
    found: dict[tuple[str, str], Findings] = field(default_factory=dict)
    doing: str = ""
    unmet: set[tuple[str, int]] = field(default_factory=set)  # (loop, turn) of rounds of which a gate did not hold

    def __post_init__(self) -> None:
        self.leaks = Leaks(self.store)
        self.made[BASE] = self.outside[base_of(self.plan).identity]

    def go(self, until: str | None = None) -> bool:
        """Walks to the end, or until after a step. Returns whether all gates were passed."""
        self.measure(BASE)
        self.check_metrics()
        for step in self.plan.steps:
            if not self.take(step):
                return False
            if step.name == until:
                break
        return True

    def take(self, step: Step) -> bool:
        """Makes a step, measures what came of it, and says whether the walk goes on."""
        if (turn := self.enough(step)) is not None:
            self.stand_in(step, turn)
            self.measure(step.name)  # what waited for it; of itself all is known
            return True
        self.step(step)
        self.measure(step.name)
        passed = [self.gate(step, gate) for gate in step.gates]
        return all(passed) or self.goes_on(step)

    def goes_on(self, step: Step) -> bool:
        """Whether another round follows if the gates of this one do not hold."""
        if step.within is None or step.within.is_last:
            return False
        self.unmet.add((step.within.loop, step.within.turn))
        return True

    def enough(self, step: Step) -> int | None:
        """The earlier round of a step whose gates all held, so that this one is not needed."""
        within = step.within
        if within is None:
            return None
        return next((turn for turn in range(1, within.turn) if (within.loop, turn) not in self.unmet), None)

    def stand_in(self, step: Step, turn: int) -> None:
        """What an earlier round made stands for what this step would have made."""
        assert step.within is not None
        other = step.within.name_in(step.name, turn)
        self.made[step.name] = self.made[other]
        self.found |= {(step.name, name): found for (model, name), found in self.found.items() if model == other}
        self.events.emit("stage_not_needed", stage=step.name, like=other)

    def models(self) -> dict[str, Model]:
        """The models that there are now, by name."""
        return {name: artifact for name, artifact in self.made.items() if isinstance(artifact, Model)}

    def work(self, step: Step) -> Work:
        return Work(step, given(step, self.made, self.outside), self.plan.recipe.seed)

    def check_stop(self) -> None:
        if self.stop():
            raise Stopped("Stopped between two stages. Run the same command to go on.")

    def step(self, step: Step) -> None:
        """Keeps or makes what a stage makes."""
        self.doing = step.name
        work = self.work(step)
        kept = self.store.find(work.key)
        if kept is not None:
            self.events.emit("stage_kept", stage=step.name, **self.place(kept))
        else:
            kept = self.make(step, work)
        self.made[step.name] = kept
        for alert in alerts.of_facts(kept.facts):
            self.events.emit("alert", stage=step.name, **alert)

    def make(self, step: Step, work: Work) -> Artifact:
        self.check_stop()
        self.events.emit("stage_started", stage=step.name, method=step.method)
        begun = time.monotonic()
        made = work.make(self.store, f"{self.run}/{step.name}", self.events.of(step.name), self.stop)
        self.events.emit("stage_finished", stage=step.name, **self.place(made), seconds=time.monotonic() - begun)
        return made

    def place(self, artifact: Artifact) -> dict[str, str]:
        """What an event says of an artifact: its digest, and its folder as seen from the folder of all runs."""
        return {"artifact": artifact.digest, "folder": f"{self.store.root.name}/{artifact.path.name}"}

    def measure(self, at: str) -> None:
        """Measures all that can be once a step is made: its model, and earlier ones with what waited for it. What was
        measured before is kept."""
        for name, measure in self.plan.due(at):
            if (name, measure.name) in self.found:  # as what stands in for the model was measured
                continue
            self.doing = name
            work = self.work(of_model(measure, name))
            kept = self.store.find(work.key)
            if kept is None:
                self.check_stop()
                emit = self.events.of(name, measure=measure.name)
                evidence = work.make(self.store, f"{self.run}/{measure.name} of {name}", emit, self.stop)
            else:
                evidence = kept
            self.found[name, measure.name] = self.findings(evidence.path, measure)
            self.events.emit(
                "measured", model=name, measure=measure.name, kept=kept is not None, **self.place(evidence)
            )
            self.warn_of_findings(name, measure)
            self.warn_of_leaks(name, measure, work)

    def findings(self, folder: Path, measure: Step) -> Findings:
        found = read_findings(folder)
        if found is None:
            raise PosttrainError(f"{folder} holds no findings. Remove it, and run the same command again.")
        return replace(found, name=measure.name)

    def warn_of_findings(self, name: str, measure: Step) -> None:
        """What a measure flagged on a model is an alert of the stage that made it; the base was made by none."""
        for alert in alerts.of_findings(self.found[name, measure.name]):
            whose = {"model": name, "title": f"{name}: {alert['title']}"} if name == BASE else {"stage": name}
            self.events.emit("alert", **{**alert, "measure": measure.name, **whose})

    def warn_of_leaks(self, name: str, measure: Step, work: Work) -> None:
        model = self.made[name]
        assert isinstance(model, Model)
        for seen, tested, method in dict.fromkeys(self.leaks.of(model, measure.stage, work.given)):
            title = (
                f"{name} is measured with {measure.name} on {seen} of {tested} questions that {method} read to make it"
            )
            self.events.emit(
                "alert", level="warning", title=title, model=name, cure="Measure with rows that no stage reads."
            )

    def check_metrics(self) -> None:
        """Raises RecipeError for gates on metrics that there are not, as soon as the base has shown which there are."""
        problems = [gate.node.problem(wrong) for gate in self.gates() for wrong in self.unknown_metric(gate, BASE)]
        if problems:
            raise RecipeError(dict.fromkeys(problems))

    def gates(self) -> Iterator[Gate]:
        return (gate for step in self.plan.steps for gate in step.gates)

    def unknown_metric(self, gate: Gate, model: str) -> Iterator[str]:
        measure, _, metric = gate.metric.partition(".")
        found = self.found.get((model, measure))
        if found and metric not in found.metrics:
            yield f"{measure!r} finds no {metric!r}. {nearest(metric, found.metrics)}"

    def gate(self, step: Step, gate: Gate) -> bool:
        """Whether a limit holds for what a step made."""
        for wrong in self.unknown_metric(gate, step.name):
            raise PosttrainError(f"The gate after {step.name}: {wrong}")
        found = self.found[step.name, gate.measure]
        verdict = judged(gate, found, self.found.get((gate.against or step.source, gate.measure)))
        told: dict[str, Any] = {"changed": list(verdict.changed)} if verdict.changed else {}
        if not verdict.passed and self.goes_on(step):
            told["goes_on"] = True
        self.events.emit(
            "gate",
            stage=step.name,
            rule=str(gate),
            value=verdict.value,
            limit=gate.limit,
            passed=verdict.passed,
            **told,
        )
        return verdict.passed


def what_failed(error: BaseException, stage: str) -> dict[str, Any]:
    """The fields of the event `failed`."""
    kind = error.kind if isinstance(error, PosttrainError) else type(error).__name__
    return {"stage": stage, "error": kind, "message": str(error)}
