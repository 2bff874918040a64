"""Reports as plain lines for a terminal: no colour, no control characters, at most 100 columns."""

from collections.abc import Iterator, Sequence

from posttrain.functional.statistics import Estimate
from posttrain.schema.findings import Findings
from posttrain.schema.record import GateResult, RunRecord

from . import numbers
from .compare import Change, Comparison, Contrast
from .samples import Sample, samples
from .sizes import Sizes
from .text import one_line
from .view import Line, Table, view

WIDTH = 100
NAME = 28  # longest name of a model or a metric shown whole
ASCII = str.maketrans(
    {"▲": "^", "▼": "v", "≈": "~", "→": ">", "–": "-", "−": "-", "…": "~", "±": " ", "✓": "+", "✕": "x"}
)


def summary(record: RunRecord, ascii_only: bool = False) -> list[str]:
    """The end of a run: the before/after table, wins, gates, warnings. `ascii_only` for terminals without UTF-8."""
    shown = view(record)
    lines = [*_overview(shown.table)]
    if shown.wins:
        lines += ["", "wins, ties half"]
        lines += aligned([_win(f"{w.model} against {w.source}", w.measure, w.share) for w in shown.wins])
    for model, found in ((s.stage.model, s.alone) for s in shown.stages):
        lines += _alone(model or "", found)
    lines += _alone(record.models[0].name, shown.alone) if shown.alone else []
    lines += _sizes(shown.sizes) if shown.sizes else []
    gates = [[_name(s.name), *_gate(gate)] for s in record.stages for gate in s.gates]
    if gates:
        lines += ["", "gates", *aligned(gates, left=2)]
    notices = [f"! {text}" for text in (*shown.problems, *shown.warnings)]
    if notices:
        lines += ["", *notices]
    return _finished(lines, ascii_only)


def comparison(found: Comparison, ascii_only: bool = False, most: int = 5) -> list[str]:
    """`posttrain compare A B`: every metric that both have, flips, wins, and up to `most` samples."""
    if not found.changes:
        return _finished([f"{found.before} and {found.after} have no measurement in common."], ascii_only)
    head = ["", _name(found.before, 12), _name(found.after, 12), "difference", "95 % interval", ""]
    lines = aligned([head, *map(_change, found.changes)])
    flips = [_flips(contrast) for contrast in found.contrasts if contrast.p is not None]
    if flips:
        lines += ["", "flips", *aligned(flips)]
    won = [_win(c.measure, f"{_name(found.after)} wins", c.wins) for c in found.contrasts if c.wins]
    if won:
        lines += ["", "wins, ties half", *aligned(won)]
    for sample in samples(found, most):
        lines += ["", *_sample(sample, found)]
    return _finished(lines, ascii_only)


def _sizes(found: Sizes) -> list[str]:
    """Models from the smallest on, and what they are worth."""
    rows = [
        [
            _name(place.model),
            numbers.measured(place.bytes, "bytes"),
            numbers.measured(found.share(place), "share"),
            numbers.value(place.quality),
            "" if place.best else "beaten",
        ]
        for place in found.places
    ]
    return ["", f"by size: {_name(found.name)}", *aligned(rows)]


def _alone(model: str, found: Sequence[Findings]) -> list[str]:
    """What was found on one model alone, beside the headlines that stand in the table."""
    lines = []
    for each in (each for each in found if len(each.metrics) > 1):
        rows = [[_name(n), numbers.value(m), numbers.interval(m.low, m.high, m.unit)] for n, m in each.metrics.items()]
        lines += ["", f"{_name(each.name)} of {_name(model)}", *aligned(rows)]
    return lines


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows as columns two blanks apart: the first `left` and the last aligned left, the others right.

    Where all are too wide together, the first gives way.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    widths[0] = min(widths[0], max(12, WIDTH - sum(width + 2 for width in widths[1:]) - 2))
    rows = [(one_line(row[0], widths[0]), *row[1:]) for row in rows]
    sides = ["<" if i < left or i == last else ">" for i in range(last + 1)]
    padded = ([f"{cell:{s}{w}}" for cell, s, w in zip(row, sides, widths, strict=True)] for row in rows)
    return [f"  {'  '.join(row)}".rstrip() for row in padded]


def _overview(table: Table) -> Iterator[str]:
    """The before/after table, in as many blocks of columns as the width asks for."""
    if not table.columns:
        yield "Nothing was measured."
        return
    names = ["", *(_name(line.model) for line in table.lines)]
    columns = [_column(table.columns[i], i, table.lines) for i in range(len(table.columns))]
    start = max(map(len, names)) + 2
    block: list[list[str]] = []
    for column in columns:
        if block and start + sum(len(c[0]) + 2 for c in block) + len(column[0]) + 2 > WIDTH:
            yield from _block(names, block)
            yield ""
            block = []
        block.append(column)
    yield from _block(names, block)


def _column(title: tuple[str, str], place: int, lines: Sequence[Line]) -> list[str]:
    """One metric of every model, each cell as wide as the widest: number, then what became of it."""
    cells = [line.cells[place] for line in lines]
    values = [numbers.value(cell.metric) if cell else "–" for cell in cells]
    words = [_word(cell.change) if cell and cell.change else "" for cell in cells]
    wide, tail = max(map(len, values)), max(map(len, words))
    head = f"{one_line(title[0])}.{one_line(title[1])}"
    head = head if len(head) <= NAME else _name(title[0])
    body = [f"{value:>{wide}} {word:<{tail}}".rstrip() for value, word in zip(values, words, strict=True)]
    width = max(len(head), wide + 1 + tail)
    return [head.ljust(width), *(cell.ljust(width) for cell in body)]


def _block(names: Sequence[str], columns: Sequence[Sequence[str]]) -> Iterator[str]:
    wide = max(map(len, names))
    for row in zip(names, *columns, strict=True):
        yield f"{row[0]:<{wide}}  {'  '.join(row[1:])}".rstrip()


def _word(change: Change) -> str:
    """`▲ better`; no clear change is ≈ alone, for the sake of the width."""
    return f"{numbers.arrow(change)} {change.verdict}".removesuffix(" no clear change")


def _change(change: Change) -> list[str]:
    return [
        _name(change.name),
        numbers.value(change.before),
        numbers.value(change.after),
        numbers.difference(change.difference, change.after.unit),
        numbers.difference_interval(change),
        _word(change),
    ]


def _win(who: str, by: str, share: Estimate) -> list[str]:
    bounds = numbers.interval(share.low, share.high, "share")
    return [
        one_line(who, 2 * NAME),
        one_line(by, NAME),
        numbers.measured(share.value, "share"),
        bounds,
        f"{share.n} rows",
    ]


def _gate(gate: GateResult) -> list[str]:
    return [
        one_line(gate.rule, 50),
        numbers.plain(gate.value),
        "✓ passed" if gate.passed else "not yet" if gate.goes_on else "✕ FAILED",
    ]


def _flips(contrast: Contrast) -> list[str]:
    gained, lost = len(contrast.gained), len(contrast.lost)
    chance = numbers.chance(contrast.p if contrast.p is not None else 1.0)
    return [_name(contrast.measure), f"{gained} wrong → right", f"{lost} right → wrong", chance]


def _sample(sample: Sample, found: Comparison) -> Iterator[str]:
    before, after = sample.pair
    yield f"{_name(sample.measure)}, {sample.what}"
    yield f"  asked     {before.prompt}"
    if before.expected:
        yield f"  expected  {before.expected}"
    names = _name(found.before), _name(found.after)
    wide = max(8, *map(len, names))
    yield f"  {names[0]:<{wide}}  {before.output}"
    yield f"  {names[1]:<{wide}}  {after.output}"


def _name(name: str, limit: int = NAME) -> str:
    return one_line(name, limit)


def _finished(lines: Sequence[str], ascii_only: bool) -> list[str]:
    """Every line made safe and cut to the width, whatever was put into it."""
    safe = [one_line(line, WIDTH) for line in lines]
    return [line.translate(ASCII).encode("ascii", "replace").decode() for line in safe] if ascii_only else safe
