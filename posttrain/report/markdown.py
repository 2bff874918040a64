"""The report as Markdown: the same tables in short, for a pull request, an issue, a terminal pager.

All text from data, models and recipes stands in code spans and fences, where nothing in it can come alive.
"""

from collections.abc import Iterator, Sequence
from math import isnan

from posttrain.schema.findings import Findings, Metric
from posttrain.schema.record import RunRecord, StageRecord

from . import numbers
from .compare import Change, Comparison
from .samples import Sample
from .text import code, fence
from .trade import MAIN, Trade
from .trust import Trust
from .view import Cell, Cost, RunView, StageView, Table, view

LIMIT = 400  # characters of a prompt or an answer


def markdown(record: RunRecord) -> str:
    """The whole report of a run."""
    shown = view(record)
    parts = [
        f"# Report of {code(record.name)}",
        lead(shown),
        *_warnings(shown),
        *_overview(shown),
        *_sizes(shown),
        *_stages(shown),
        *_base(shown),
    ]
    parts += [part for stage in shown.stages for part in _stage(stage)]
    if record.recipe:
        parts += ["## Recipe", fence(record.recipe, language="yaml")]
    if record.machine:
        parts += [
            "## Machine and versions",
            grid(("", ""), [(code(k), code(v)) for k, v in record.machine.items()], "ll"),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def lead(shown: RunView) -> str:
    """One sentence: what ran, how long, and what it changed."""
    count = len(shown.record.stages)
    ran = f"{count} stage{'s' * (count != 1)} in {numbers.seconds(shown.record.seconds)}"
    if not shown.whole or not shown.whole.changes:
        return f"{ran}."
    change = shown.whole.changes[0]
    costs = f" Worse: {', '.join(map(_cost, shown.costs))}." if shown.costs else ""
    return f"{ran}: {' → '.join(map(code, shown.trunk))}. {_moved(change)} ({change.verdict}).{costs}"


def _cost(cost: Cost) -> str:
    return _moved(cost.change) + (f" by {code(cost.by)}" if cost.by else "")


def _moved(change: Change) -> str:
    return f"{code(change.name)} {numbers.value(change.before)} → {numbers.value(change.after)}"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """A Markdown table, a letter of `align` for each column: `l`eft or `r`ight. Cells must be safe already."""
    rule = [{"l": ":--", "r": "--:"}[letter] for letter in align]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def before_after(table: Table) -> str:
    """Models by headline metrics, each compared with the model it came from."""
    head = ["model", *(code(f"{measure}.{metric}") for measure, metric in table.columns)]
    names = (code(line.model) + (f" from {code(line.source)}" if line.source else "") for line in table.lines)
    rows = [[name, *map(_cell, line.cells)] for name, line in zip(names, table.lines, strict=True)]
    return grid(head, rows, "l" + "r" * len(table.columns))


def changes(found: Sequence[Change]) -> str:
    """Every metric before and after, with the interval of the difference."""
    head = ("metric", "before", "after", "difference", "95 % interval", "")
    return grid(head, [_change(change) for change in found], "lrrrrl")


def _change(change: Change) -> list[str]:
    return [
        code(change.name),
        numbers.value(change.before),
        f"**{numbers.value(change.after)}**",
        numbers.difference(change.difference, change.after.unit),
        numbers.difference_interval(change) or "–",
        f"{numbers.arrow(change)} {change.verdict}",
    ]


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    bounds = numbers.interval(cell.metric.low, cell.metric.high, cell.metric.unit)
    parts = [f"**{numbers.value(cell.metric)}**", f"({bounds})" if bounds else ""]
    if cell.change:
        parts.append(f"{numbers.arrow(cell.change)} {cell.change.verdict}")
    return " ".join(filter(None, parts))


def _warnings(shown: RunView) -> Iterator[str]:
    for title, texts in (("Problems", shown.problems), ("Warnings", shown.warnings)):
        if texts:
            yield "\n".join([f"**{title}**", "", *(f"- {code(text)}" for text in texts)])


def _overview(shown: RunView) -> Iterator[str]:
    yield "## Before and after"
    if not shown.table.columns:
        yield "Nothing was measured."
        return
    yield before_after(shown.table)
    yield "Each row is compared with the model it came from. Brackets: 95 % interval. ▲ ▼: where the number went."
    if shown.wins:
        rows = [
            [
                code(win.model),
                code(win.source),
                code(win.measure),
                f"**{numbers.measured(win.share.value, 'share')}**",
                numbers.interval(win.share.low, win.share.high, "share"),
                str(win.share.n),
            ]
            for win in shown.wins
        ]
        yield "### Wins, ties half"
        yield grid(("model", "against", "by", "wins", "95 % interval", "rows"), rows, "lllrrr")


def _sizes(shown: RunView) -> Iterator[str]:
    """Models by their size and what they are worth."""
    if shown.sizes is None:
        return
    found = shown.sizes
    rows = [
        [
            code(place.model),
            numbers.measured(place.bytes, "bytes"),
            numbers.measured(found.share(place), "share"),
            f"**{numbers.value(place.quality)}**",
            _bounds(place.quality) or "–",
            "no" if place.best else "yes",
        ]
        for place in found.places
    ]
    yield "## Quality by size"
    yield grid(("model", "bytes", "of the largest", code(found.name), "95 % interval", "beaten"), rows, "lrrrrl")
    yield "Beaten: another model is as small and as good, and smaller or better."


def _stages(shown: RunView) -> Iterator[str]:
    if not shown.stages:
        return
    rows = [
        [
            f"{'· ' * part.lane}{code(part.stage.name)}",
            code(part.stage.method),
            code(part.stage.source) if part.stage.source else "–",
            code(part.stage.state),
            numbers.seconds(part.stage.seconds) if part.stage.seconds else "–",
            _gates(part.stage),
        ]
        for part in shown.stages
    ]
    yield "## Stages"
    yield grid(("stage", "method", "from", "state", "time", "gates"), rows, "llllrl")


def _gates(stage: StageRecord) -> str:
    words = (
        f"{'✓ passed' if gate.passed else 'not yet' if gate.goes_on else '✕ **failed**'} {code(gate.rule)} found {numbers.plain(gate.value)}"
        for gate in stage.gates
    )
    return "; ".join(words) or "–"


def alone(found: Sequence[Findings]) -> str:
    """Every metric of findings that nothing is compared with."""
    rows = [
        [code(f"{each.name}.{name}"), f"**{numbers.value(m)}**", _bounds(m) or "–", str(m.n or "–")]
        for each in found
        for name, m in each.metrics.items()
    ]
    return grid(("metric", "value", "95 % interval", "rows"), rows, "lrrr")


def _bounds(metric: Metric) -> str:
    return numbers.interval(metric.low, metric.high, metric.unit)


def traded(found: Trade) -> str:
    """Reward, KL, entropy and length at the beginning, in the middle and at the end."""
    head = ["steps", *(f"{series.title}, {series.unit}" if series.unit else series.title for series in MAIN)]
    rows = [
        [
            f"{part.first} – {part.last}" if part.first < part.last else str(part.first),
            *("–" if isnan(mean) else numbers.plain(mean) for mean in part.means),
        ]
        for part in found.parts()
    ]
    return grid(head, rows, "l" + "r" * len(MAIN))


def _trust(found: Trust) -> Iterator[str]:
    """How sure against how often right, and what it was cheated with."""
    if found.sure:
        yield f"{code(found.measure)}: how often it is right, by how sure it is."
        rows = [
            [f"{each.low:.0%} – {each.high:.0%}", str(each.n), f"{each.confidence:.1%}", f"**{each.right:.1%}**"]
            for each in found.sure
        ]
        yield grid(("sure", "pairs", "on average", "right"), rows, "lrrr")
    for cheat in found.cheats:
        yield f"{code(found.measure)} prefers {code(cheat.probe)} here:"
        yield fence(cheat.prompt, LIMIT)
        yield "to the better answer"
        yield fence(cheat.honest, LIMIT)
        yield "it prefers"
        yield fence(cheat.preferred, LIMIT)


def _base(shown: RunView) -> Iterator[str]:
    if shown.alone or shown.trusts:
        yield f"## Model {code(shown.record.models[0].name)}"
        if shown.alone:
            yield alone(shown.alone)
        for found in shown.trusts:
            yield from _trust(found)


def _stage(part: StageView) -> Iterator[str]:
    if part.watched or part.trade or part.alone or part.trusts or (part.comparison and part.comparison.changes):
        yield f"## Stage {code(part.stage.name)}"
    yield from part.watched
    if part.trade:
        yield "What it earned, and how far it went for it:"
        yield traded(part.trade)
    if part.alone:
        yield alone(part.alone)
    for found in part.trusts:
        yield from _trust(found)
    if part.comparison is None or not part.comparison.changes:
        return
    yield f"Against {code(part.comparison.before)}:"
    yield changes(part.comparison.changes)
    for contrast in part.comparison.contrasts:
        if contrast.p is not None:
            flips = f"{len(contrast.gained)} rows turned right, {len(contrast.lost)} turned wrong"
            yield f"{code(contrast.measure)}: {flips} ({numbers.chance(contrast.p)}, exact)."
    for number, sample in enumerate(part.samples, 1):
        yield from _sample(number, sample, part.comparison)


def _sample(number: int, sample: Sample, found: Comparison) -> Iterator[str]:
    before, after = sample.pair
    yield f"**Sample {number}**, {code(sample.measure)}: {sample.what}"
    yield fence(before.prompt, LIMIT)
    if before.expected:
        yield "Expected:"
        yield fence(before.expected, LIMIT)
    yield f"{code(found.before)}:"
    yield fence(before.output, LIMIT)
    yield f"{code(found.after)}:"
    yield fence(after.output, LIMIT)
