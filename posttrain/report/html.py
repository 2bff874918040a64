"""The report as one HTML file: no script, no request, readable without a network, on a phone, in the dark.

Everything is escaped by the template engine; the page also forbids itself any script, request and form, so that a hole in
the escaping would still do nothing.
"""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from posttrain.schema.record import Point, RunRecord

from . import charts, numbers, text
from .flat import flat
from .frontier import frontier
from .sizes import Sizes
from .trade import MAIN, MORE, Series, Trade
from .trust import Trust
from .view import view

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Curve:
    """One chart: its drawing, and the numbers in it for whoever cannot see it, by what goes across it."""

    title: str
    unit: str
    drawing: Markup
    rows: list[tuple[str, str]]
    across: str = "step"


def html(record: RunRecord) -> str:
    """The whole report of a run, as one file."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = _environment().get_template("report.html.j2")
    return page.render(view=view(record), run=record, style=Markup(style), style_digest=digest)


def curves(points: tuple[Point, ...], stage: str, identity: str) -> list[Curve]:
    """The charts of a training stage: the loss, and the learning rate and speed where they were recorded."""
    series = (
        ("loss", "", True, [(p.step, p.loss) for p in points]),
        ("learning rate", "", False, [(p.step, p.lr) for p in points]),
        ("speed", "tokens/s", True, [(p.step, p.tokens_per_s) for p in points]),
    )
    drawn = []
    for name, unit, noisy, values in series:
        if name == "loss" or any(y for _, y in values):
            title = f"{name} of {text.one_line(stage)} over {points[-1].step if points else 0} steps"
            drawing = charts.line(values, title, f"{identity}-{name.replace(' ', '-')}", noisy)
            drawn.append(Curve(name, unit, drawing, charts.rows(values)))
    return [curve for curve in drawn if curve.drawing]


def traded(found: Trade, stage: str, identity: str) -> list[Curve]:
    """The charts of a stage that learnt from its own answers: reward over KL, and each of its numbers over the steps."""
    name, across = text.one_line(stage), found.across()
    title = f"reward of {name} over KL to the reference, a dot for every step, the later the darker"
    ends = (f"step {found.points[0].step}", f"step {found.points[-1].step}")
    drawing = charts.trail(across, ends, title, f"{identity}-trade")
    return [
        Curve("reward", "over KL in nats an answer", drawing, charts.rows(across), "KL"),
        *(_over_steps(found, series, name, identity) for series in MAIN),
    ]


def more(found: Trade, stage: str, identity: str) -> list[Curve]:
    """What else such a stage told, where it changed."""
    told = (series for series in MORE if len({y for _, y in found.over_steps(series.name)}) > 1)
    return [_over_steps(found, series, text.one_line(stage), identity) for series in told]


def _over_steps(found: Trade, series: Series, stage: str, identity: str) -> Curve:
    values = found.over_steps(series.name)
    title = f"{series.title} of {stage} over {found.points[-1].step} steps"
    drawing = charts.line(values, title, f"{identity}-{series.name}", noisy=True)
    return Curve(series.title, series.unit, drawing, charts.rows(values))


def trusted(found: Trust, model: str, identity: str) -> list[Curve]:
    """The charts of a model that scores: what it is sure of and right about, and its margins."""
    drawn, name = [], text.one_line(model)
    if found.sure:
        points = [(each.confidence, each.right) for each in found.sure]
        title = f"how often {name} is right, by how sure it is; the straight line is where both are the same"
        drawing = charts.reliability(points, [each.n for each in found.sure], title, f"{identity}-sure")
        drawn.append(Curve("right", "by how sure it is", drawing, charts.rows(points), "sure"))
    if found.margins.counts:
        edges, counts = found.margins
        title = (
            f"margins of {name}, from {numbers.plain(edges[0])} to {numbers.plain(edges[-1])}; below zero it is wrong"
        )
        rows = [
            (f"{numbers.plain(low)} to {numbers.plain(high)}", numbers.plain(count))
            for (low, high), count in zip(pairwise(edges), counts, strict=True)
        ]
        drawing = charts.columns(edges, counts, title, f"{identity}-margins")
        drawn.append(Curve("pairs", "by their margin", drawing, rows, "margin"))
    return drawn


def sized(found: Sizes) -> Markup:
    """The chart of models by their size and what they are worth."""
    title = f"{text.one_line(found.name)} over bytes of {len(found.places)} models; the line joins those that no other beats"
    return frontier(found, title, "sizes-chart")


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "line": text.one_line,
        "visible": text.visible,
        "clip": text.clip,
        "value": numbers.value,
        "seconds": numbers.seconds,
        "plain": numbers.plain,
        "chance": numbers.chance,
        "arrow": numbers.arrow,
        "flat": flat,
    }
    found.globals |= {
        "numbers": numbers,
        "share_chart": charts.share,
        "curves": curves,
        "traded": traded,
        "more": more,
        "trusted": trusted,
        "sized": sized,
    }
    return found
