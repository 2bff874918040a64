"""What every report shows, computed once from the record: the table, the tree, the wins, the samples.

HTML, Markdown, the terminal and model cards only write down what stands here.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from posttrain.functional.statistics import Estimate
from posttrain.schema.findings import Findings, Metric
from posttrain.schema.record import ModelRecord, RunRecord, StageRecord

from .compare import Change, Comparison, compare
from .numbers import plain
from .samples import Sample, samples
from .sizes import Sizes, sizes
from .text import clip
from .trade import Trade, trade
from .trust import Trust, trust
from .watched import watched


@dataclass(frozen=True, slots=True)
class Cell:
    """One metric of one model, and how it changed from the model's source (None for the base)."""

    metric: Metric
    change: Change | None


@dataclass(frozen=True, slots=True)
class Line:
    """One model of the before/after table."""

    model: str
    source: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Models by headline metrics. A column is a (measure, metric) that at least one model has."""

    columns: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Win:
    """How often a stage's model beats the model that it was made from, by one measure."""

    model: str
    source: str
    measure: str
    share: Estimate


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage, its place in the tree (`lane` 0 is the trunk), what it changed and what was `watched` while it trained.
    `trade` is what it earned by how far it went, where it learnt from its own answers; `alone` are findings on its model
    that nothing is compared with, `trusts` what they say of a model that scores."""

    stage: StageRecord
    lane: int
    comparison: Comparison | None
    samples: tuple[Sample, ...]
    watched: tuple[str, ...] = ()
    alone: tuple[Findings, ...] = ()
    trusts: tuple[Trust, ...] = ()
    trade: Trade | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """A headline metric that became worse: from the base to the last model of the trunk, or `by` one stage."""

    change: Change
    by: str = ""


@dataclass(frozen=True)
class RunView:
    """A run. `alone` and `trusts` are those of the base, `sizes` what models of unlike size are worth. `whole` compares the base with the last model of the trunk.
    `problems` are failed stages and gates, `warnings` those of the run and the alerts of its stages."""

    record: RunRecord
    table: Table
    stages: tuple[StageView, ...]
    wins: tuple[Win, ...]
    trunk: tuple[str, ...]
    whole: Comparison | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    alone: tuple[Findings, ...] = ()
    trusts: tuple[Trust, ...] = ()
    sizes: Sizes | None = None

    @property
    def costs(self) -> tuple[Cost, ...]:
        """What became worse on the whole, the first metric aside, and what a single stage lost beside it: a style may be
        won and answers lost, where both are far above the base. What a later stage won back is no cost."""
        changes = self.whole.changes if self.whole else ()
        whole = [c for c in changes if self._is_worse(c)]
        told = {c.name for c in whole}
        stages = (
            Cost(change, part.stage.name)
            for part in self.stages
            for change in (part.comparison.changes if part.comparison else ())
            if self._is_worse(change) and change.name not in told and not self._won_back(part, change)
        )
        return (*(Cost(c) for c in whole if c is not changes[0]), *stages)

    def _is_worse(self, change: Change) -> bool:
        return change.verdict == "worse" and (change.measure, change.metric) in self.table.columns

    def _won_back(self, lost_by: StageView, lost: Change) -> bool:
        """Whether a stage further along the trunk made a metric better again."""
        place = {name: n for n, name in enumerate(self.trunk)}
        since = place.get(lost_by.stage.model or "", len(place))
        later = (part.comparison for part in self.stages if place.get(part.stage.model or "", 0) > since)
        changes = (found.change(lost.measure, lost.metric) for found in later if found)
        return any(change and change.verdict == "better" for change in changes)


def view(record: RunRecord) -> RunView:
    """Everything that the reports of a run show."""
    models = {model.name: model for model in record.models}
    compared = {
        stage.name: compare(models[stage.source], models[stage.model])
        for stage in record.stages
        if stage.model in models and stage.source in models and stage.model != stage.source
    }
    lanes, trunk = _tree(record)
    alone = _alone(record, compared.values())
    trusts = {model.name: _trusts(model) for model in record.models}
    base = record.models[0].name if record.models else ""
    return RunView(
        record=record,
        table=table(record, compared),
        stages=tuple(
            StageView(
                s,
                lanes[s.name],
                compared.get(s.name),
                samples(compared.get(s.name)),
                watched(s.facts),
                alone.get(s.model or "", ()),
                trusts.get(s.model or "", ()),
                trade(s.curve),
            )
            for s in record.stages
        ),
        wins=tuple(_wins(compared.values())),
        trunk=trunk,
        whole=compare(models[trunk[0]], models[trunk[-1]]) if len(trunk) > 1 else None,
        problems=tuple(_problems(record)),
        warnings=(
            *record.warnings,
            *(f"{stage.name}: {alert}" for stage in record.stages for alert in stage.alerts),
        ),
        alone=alone.get(base, ()),
        trusts=trusts.get(base, ()),
        sizes=sizes(record),
    )


def _alone(record: RunRecord, compared: Iterable[Comparison]) -> dict[str, tuple[Findings, ...]]:
    """Findings, by model, that no comparison shows, as only one of two models was measured so."""
    shown = {(model, c.measure) for found in compared for c in found.changes for model in (found.before, found.after)}
    return {
        model.name: tuple(f for name, f in model.findings.items() if f.metrics and (model.name, name) not in shown)
        for model in record.models
    }


def _trusts(model: ModelRecord) -> tuple[Trust, ...]:
    return tuple(told for found in model.findings.values() if (told := trust(found)))


def _problems(record: RunRecord) -> Iterator[str]:
    for stage in record.stages:
        if stage.state == "failed":
            yield f"{stage.name} failed while running"
        for gate in stage.gates:
            if not gate.passed and not gate.goes_on:
                on = "".join(f"; worse on {clip(prompt, 80).start!r}" for prompt in gate.changed)
                yield f"{stage.name} fails its gate {gate.rule} (found {plain(gate.value)}){on}"


def table(record: RunRecord, compared: Mapping[str, Comparison]) -> Table:
    """The headline of each measure, its first metric, for every model. `compared` is by the stage's name."""
    columns: dict[str, str] = {}
    for model in record.models:
        for name, findings in model.findings.items():
            for metric in findings.metrics:
                columns.setdefault(name, metric)
                break
    by_model = {found.after: found for found in compared.values()}
    lines = tuple(_line(model, columns, by_model.get(model.name)) for model in record.models)
    return Table(tuple(columns.items()), lines)


def _line(model: ModelRecord, columns: Mapping[str, str], compared: Comparison | None) -> Line:
    cells = []
    for measure, name in columns.items():
        metric = model.findings[measure].metrics.get(name) if measure in model.findings else None
        change = compared.change(measure, name) if compared else None
        cells.append(Cell(metric, change) if metric else None)
    return Line(model.name, compared.before if compared else "", tuple(cells))


def _tree(record: RunRecord) -> tuple[dict[str, int], tuple[str, ...]]:
    """The lane of each stage, and the models of the trunk from the base on.

    A model's longest line of descendants goes on in its lane; every other one, every data set and every model that only
    scores moves one lane in.
    """
    scores = {model.name for model in record.models if model.form == "reward"}
    children: dict[str, list[StageRecord]] = {}
    for stage in record.stages:
        children.setdefault(stage.source, []).append(stage)
    height: dict[str, int] = {}
    for stage in reversed(record.stages):
        below = (height.get(child.name, 0) for child in children.get(stage.name, ()))
        height[stage.name] = 1 + max(below, default=0)
    heirs = {source: _heir([s for s in stages if s.model not in scores], height) for source, stages in children.items()}
    lanes: dict[str, int] = {}
    for stage in record.stages:
        lanes[stage.name] = lanes.get(stage.source, 0) + (heirs[stage.source] is not stage)
    return lanes, tuple(_trunk(record, heirs))


def _heir(stages: list[StageRecord], height: Mapping[str, int]) -> StageRecord | None:
    return max((s for s in stages if s.kind != "generator"), key=lambda s: height[s.name], default=None)


def _trunk(record: RunRecord, heirs: Mapping[str, StageRecord | None]) -> Iterator[str]:
    names = {model.name for model in record.models}
    name = record.models[0].name if record.models else None
    while name in names:
        names.discard(name)
        yield name
        heir = heirs.get(name)
        name = heir.model if heir else None


def _wins(compared: Iterable[Comparison]) -> Iterator[Win]:
    for found in compared:
        for contrast in found.contrasts:
            if contrast.wins:
                yield Win(found.after, found.before, contrast.measure, contrast.wins)
