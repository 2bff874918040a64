"""The report as one HTML file: no script, no request, readable without a network, on a phone, in the dark.

Everything is escaped by the template engine; the page also forbids itself any script, request and form, so that a hole in
the escaping would still do nothing.
"""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from posttrain.schema.record import Point, RunRecord

from . import charts, numbers, text
from .flat import flat
from .view import view

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Curve:
    """One chart of a stage: its drawing, and the numbers in it for whoever cannot see it."""

    title: str
    unit: str
    drawing: Markup
    rows: list[tuple[str, str]]


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
    found.globals |= {"numbers": numbers, "share_chart": charts.share, "curves": curves}
    return found
