"""Charts as SVG text, drawn here so that a page needs no script. Colours and widths stand in `report.css`.

A chart has at most 600 points: a long curve is cut into buckets of which the smallest and largest value stay, so a spike
is never lost. Values that are not finite break the line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import ceil, floor, isfinite, log10, nan, sqrt
from statistics import fmean

from markupsafe import Markup, escape

from posttrain.functional.statistics import Estimate

from .numbers import plain

XY = tuple[float, float]
POINTS = 600
WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24  # margins that hold the tick labels
SMOOTHING = 0.9


def line(points: Sequence[XY], title: str, identity: str, noisy: bool = False) -> Markup:
    """One curve, and its average over it when `noisy`. `identity` must be unique in the page, `title` is what a screen
    reader says. Empty when there is no finite value."""
    known = [y for _, y in points if isfinite(y)]
    if not known:
        return Markup("")
    x_ticks = ticks(points[0][0], points[-1][0], 4, whole=True)
    y_ticks = ticks(min(known), max(known), 4)
    frame = Frame((points[0][0], points[-1][0]), (min(known), max(known)))
    smooth = smoothed(points) if noisy and len(known) > 20 else ()
    limit = POINTS // 2 if smooth else POINTS
    parts = [
        *(frame.y_tick(y) for y in y_ticks),
        *(frame.x_tick(x) for x in x_ticks),
        f'<path class="{"raw" if smooth else "smooth"}" d="{frame.path(thin(points, limit))}"/>',
        f'<path class="smooth" d="{frame.path(thin(smooth, limit))}"/>' if smooth else "",
    ]
    return drawing(parts, title, identity)


def reliability(points: Sequence[XY], sizes: Sequence[float], title: str, identity: str) -> Markup:
    """How often what is as sure as x is right: a dot for every point, its area by its size, and the line on which both
    are the same. x goes from one half to one, y from nothing to one."""
    frame = Frame((0.5, 1.0), (0.0, 1.0))
    widest = max(sizes, default=1.0) or 1.0
    dots = zip(map(frame.place, points), sizes, strict=True)
    parts = [
        *(frame.y_tick(y) for y in (0.0, 0.5, 1.0)),
        *(frame.x_tick(x) for x in (0.5, 0.75, 1.0)),
        f'<path class="even" d="{frame.path([(0.5, 0.5), (1.0, 1.0)])}"/>',
        f'<path class="smooth" d="{frame.path(points)}"/>',
        *(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{2 + 4 * sqrt(n / widest):.1f}"/>' for (x, y), n in dots),
    ]
    return drawing(parts, title, identity)


def columns(edges: Sequence[float], counts: Sequence[int], title: str, identity: str) -> Markup:
    """A histogram; what lies below zero stands in another colour."""
    frame = Frame((edges[0], edges[-1]), (0.0, float(max(counts))))
    parts = [
        *(frame.y_tick(y) for y in ticks(0, max(counts), 4, whole=True)),
        *(frame.x_tick(x) for x in ticks(edges[0], edges[-1], 4)),
    ]
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        (left, top), (right, bottom) = frame.place((low, count)), frame.place((high, 0))
        kind = "column below" if high <= 0 else "column"
        parts.append(
            f'<rect class="{kind}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
            f'height="{bottom - top:.1f}"/>'
        )
    return drawing(parts, title, identity)


def drawing(parts: Sequence[str], title: str, identity: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Markup:
    """An SVG of some parts."""
    head = (
        f'<svg class="chart" viewBox="0 0 {size[0]} {size[1]}" role="img" aria-labelledby="{escape(identity)}">'
        f'<title id="{escape(identity)}">{escape(title)}</title>'
    )
    return Markup("".join([head, *parts, "</svg>"]))


def trail(points: Sequence[XY], ends: tuple[str, str], title: str, identity: str) -> Markup:
    """A way through a plane: a dot for every point, the later the darker, their average as a line, and names at both `ends`.
    Points that are not finite are passed over; empty when none is left."""
    known = [(x, y) for x, y in points if isfinite(x) and isfinite(y)]
    if not known:
        return Markup("")
    xs, ys = [x for x, _ in known], [y for _, y in known]
    frame = Frame((min(xs), max(xs)), (min(ys), max(ys)))
    line = _averaged(known) if len(known) > 20 else known
    shown = _evenly(known, POINTS // 2)
    dots = zip(map(frame.place, shown), range(len(shown)), strict=True)
    parts = [
        *(frame.y_tick(y) for y in ticks(min(ys), max(ys), 4)),
        *(frame.x_tick(x) for x in ticks(min(xs), max(xs), 4)),
        *(f'<circle class="age-{4 * n // len(shown)}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for (x, y), n in dots),
        f'<path class="smooth" d="{frame.path(_evenly(line, POINTS // 2))}"/>',
        *(frame.label(point, end) for point, end in zip((line[0], line[-1]), ends, strict=True)),
    ]
    return drawing(parts, title, identity)


def _averaged(points: Sequence[XY]) -> list[XY]:
    """The mean of both values over the points around each, so that the line does not lag behind them."""
    reach = max(1, len(points) // 20)
    around = [points[max(0, n - reach) : n + reach + 1] for n in range(len(points))]
    return [(fmean(x for x, _ in near), fmean(y for _, y in near)) for near in around]


def _evenly(points: Sequence[XY], most: int) -> list[XY]:
    """At most so many points, always with the first and the last."""
    last = len(points) - 1
    return [points[round(i * last / (most - 1))] for i in range(most)] if last >= most else list(points)


def share(found: Estimate) -> Markup:
    """A share between 0 and 1 as a dot on a line, its interval as a bar, one half as a tick. The numbers stand beside it."""
    low, dot, high = (round(4 + 112 * part, 1) for part in (found.low, found.value, found.high))
    return Markup(
        '<svg class="share" viewBox="0 0 120 16" aria-hidden="true">'
        '<path class="grid" d="M4 8H116M60 3V13"/>'
        f'<rect class="interval" x="{low}" y="5.5" width="{max(1.0, high - low):.1f}" height="5" rx="2.5"/>'
        f'<circle class="dot" cx="{dot}" cy="8" r="3.5"/></svg>'
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """From values to places in the drawing; `x` and `y` are the smallest and largest value of each axis, `width` and `height`
    those of the drawing, and `left` is its margin for labels."""

    x: XY
    y: XY
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT

    def place(self, point: XY) -> XY:
        across = (point[0] - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (point[1] - self.y[0]) / (self.y[1] - self.y[0]) if self.y[1] > self.y[0] else 0.5
        return self.left + across * (self.width - self.left - RIGHT), self.height - BOTTOM - up * (
            self.height - TOP - BOTTOM
        )

    def path(self, points: Sequence[XY]) -> str:
        """`M x y L x y …`, with a new start after every value that is not finite; a lone point becomes a dot."""
        runs = (list(run) for finite, run in groupby(points, lambda p: isfinite(p[1])) if finite)
        drawn = (run if len(run) > 1 else run * 2 for run in runs)
        return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in map(self.place, run)) for run in drawn)

    def label(self, point: XY, text: str) -> str:
        """A few words beside a point, inside of the drawing."""
        x, y = self.place(point)
        anchor, beside = ("end", -7) if x > self.width / 2 else ("start", 7)
        below = 14 if y < TOP + 20 else -7
        return f'<text x="{x + beside:.1f}" y="{y + below:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

    def y_tick(self, value: float, text: str = "") -> str:
        _, y = self.place((self.x[0], value))
        label = f'<text x="{self.left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{escape(text or short(value))}</text>'
        return f'<path class="grid" d="M{self.left} {y:.1f}H{self.width - RIGHT}"/>{label}'

    def x_tick(self, value: float, text: str = "") -> str:
        x, _ = self.place((value, self.y[0]))
        anchor = "end" if x > self.width - 2 * RIGHT else "middle"
        return f'<text x="{x:.1f}" y="{self.height - 7}" text-anchor="{anchor}">{escape(text or short(value))}</text>'


def thin(points: Sequence[XY], limit: int = POINTS) -> list[XY]:
    """At most `limit` points that keep every bucket's smallest and largest value."""
    if len(points) <= limit:
        return list(points)
    buckets = limit // 2
    edges = [round(i * len(points) / buckets) for i in range(buckets + 1)]
    return [p for first, last in pairwise(edges) for p in _extremes(points[first:last])]


def _extremes(bucket: Sequence[XY]) -> Iterator[XY]:
    finite = [p for p in bucket if isfinite(p[1])]
    if not finite:
        yield bucket[0]
        return
    ends = {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])}
    yield from sorted(ends)


def smoothed(points: Sequence[XY]) -> list[XY]:
    """The exponential moving average, without the pull towards zero at the start (as Adam corrects its moments)."""
    total, weight, curve = 0.0, 0.0, []
    for x, y in points:
        if isfinite(y):
            total, weight = SMOOTHING * total + (1 - SMOOTHING) * y, SMOOTHING * weight + (1 - SMOOTHING)
        curve.append((x, total / weight if weight and isfinite(y) else nan))
    return curve


def ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten, `most` of them or fewer.

    >>> ticks(0.13, 1.9, 4), ticks(1, 500, 4, whole=True)
    ([0.5, 1.0, 1.5], [200, 400])
    """
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** floor(log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) < most)
    step = max(1, round(step)) if whole else step
    return [round(i * step, 12) for i in range(ceil(low / step), floor(high / step) + 1)]


def short(number: float) -> str:
    """A tick's label: `12k`, `0.0006`."""
    if abs(number) >= 1000:
        return f"{number / 1000:,.3g}k"
    return f"{number:.3g}".replace("-", "−")


def rows(points: Sequence[XY], most: int = 40) -> list[tuple[str, str]]:
    """The curve as a table of at most `most` lines, evenly taken, always with the first and the last."""
    last = len(points) - 1
    chosen = sorted({round(i * last / max(1, most - 1)) for i in range(most)}) if last >= most else range(last + 1)
    return [(plain(points[i][0]), plain(points[i][1])) for i in chosen]
