"""Quality over bytes as a drawing: a named dot for every model, and the line of those that no other beats.

Bytes grow by factors. So do divergences, which may be hundreds of times apart: what is next to nothing, as that of a model from
itself, stands at the bottom as 0. Shares grow by steps.
"""

from collections.abc import Sequence
from math import ceil, floor, log10

from markupsafe import Markup, escape

from . import numbers
from .charts import BOTTOM, TOP, XY, Frame, drawing, short, ticks
from .labels import HIGH, Box, Label, labels
from .sizes import Sizes
from .text import one_line

WIDTH, HEIGHT, LEFT = 680, 340, 64
NOTHING = 1e-7  # nats: less is rounding
MARGIN = 0.06  # of each axis, beyond the outermost points
LONGEST = 26  # signs of a name
MANY = 3  # powers of ten, from which each has one tick


def frontier(found: Sizes, title: str, identity: str) -> Markup:
    """The drawing of what models are worth by their size."""
    heights, marks = _heights(found)
    points = [(log10(place.bytes), height) for place, height in zip(found.places, heights, strict=True)]
    frame = Frame(_wider([x for x, _ in points]), _wider([y for _, y in points]), WIDTH, HEIGHT, LEFT)
    at = [frame.place(point) for point in points]
    best = [spot for spot, place in zip(at, found.places, strict=True) if place.best]
    names = [one_line(place.model, LONGEST) for place in found.places]
    room = Box(LEFT + 2, TOP - 6, WIDTH - 2, HEIGHT - BOTTOM - 1)
    parts = [
        *(frame.y_tick(y, text) for y, text in marks if frame.y[0] <= y <= frame.y[1]),
        *(frame.x_tick(log10(x), _size(x)) for x in _decades(*(10**end for end in frame.x))),
        f'<path class="frontier" d="{_path(best)}"/>',
        *(
            f'<circle class="{"dot" if place.best else "other"}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
            for (x, y), place in zip(at, found.places, strict=True)
        ),
        *(
            _name(label, spot, place.best)
            for label, spot, place in zip(labels(at, names, room, best), at, found.places, strict=True)
            if label
        ),
    ]
    return drawing(parts, title, identity, (WIDTH, HEIGHT))


def _heights(found: Sizes) -> tuple[list[float], list[tuple[float, str]]]:
    """How high each model stands, and what is written beside the axis."""
    values = [place.quality.value for place in found.places]
    if found.places[0].quality.unit != "nats":
        low, high = _wider(values)
        return values, [(tick, _share(tick, found)) for tick in ticks(low, high, 5)]
    some = [value for value in values if value > NOTHING] or [1.0]
    bottom = log10(min(some)) - (0.5 if len(some) < len(values) else 0)
    heights = [log10(value) if value > NOTHING else bottom for value in values]
    marks = [(log10(tick), short(tick)) for tick in _decades(min(some), max(some))]
    return heights, [*([(bottom, "0")] if len(some) < len(values) else []), *marks]


def _share(tick: float, found: Sizes) -> str:
    return f"{100 * tick:.3g} %" if found.places[0].quality.unit == "share" else short(tick)


def _decades(low: float, high: float) -> list[float]:
    """Round numbers between two: 1, 2 and 5 times powers of ten, the powers alone where there are many, and steps where there
    is but one."""
    if high == low:
        return [low]
    powers = [10.0**n for n in range(floor(log10(low)), ceil(log10(high)) + 1)]
    steps = (1,) if log10(high / low) > MANY else (1, 2, 5)
    found = [power * step for power in powers for step in steps if low <= power * step <= high]
    return found if len(found) > 1 else ticks(low, high, 4)


def _wider(values: Sequence[float]) -> XY:
    """The ends of an axis."""
    low, high = min(values), max(values)
    more = MARGIN * (high - low) or 0.5 * abs(high) or 1.0
    return low - more, high + more


def _size(n_bytes: float) -> str:
    return numbers.measured(n_bytes, "bytes").replace(".0 ", " ")


def _path(points: Sequence[XY]) -> str:
    """From a smaller model to the next that is better: what may be had of so many bytes stays until there is one."""
    if len(points) < 2:
        return ""
    (x, y), *rest = points
    return f"M{x:.1f} {y:.1f}" + "".join(f"L{x:.1f} {y:.1f}" for x, y in rest)


def _name(label: Label, point: XY, best: bool) -> str:
    left, top, right, bottom = label.box
    kind = "name best" if best else "name"
    text = (
        f'<text class="{kind}" x="{(left + right) / 2:.1f}" y="{bottom - 2.5:.1f}" text-anchor="middle">'
        f"{escape(label.text)}</text>"
    )
    if not label.far:
        return text
    x, y = point
    to_x, to_y = min(max(x, left), right), min(max(y, top + HIGH / 4), bottom)
    return f'<path class="leader" d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}"/>{text}'
