"""Names beside points, none over another: each takes the first free place around its point, or one further away with a line to it.

A place is a box of the drawing, x and y from its upper left corner. Widths are guessed from the number of signs, as a page without
script cannot measure them.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import cos, hypot, pi, sin
from typing import NamedTuple

SIGN, HIGH = 6.9, 12.0  # how wide a sign is, a little too wide, and how high a line
NEAR, STEP, FARTHEST = 8.0, 12.0, 92.0
CROSSED = 0.15  # how bad it is to lie on a line, where lying on a name or a point is 1


class Box(NamedTuple):
    """From the left to the right, and from the top down."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, other: "Box") -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )


class Label(NamedTuple):
    """A name in its box; `far` says that a line should lead to its point."""

    text: str
    box: Box
    far: bool


XY = tuple[float, float]


def labels(
    points: Sequence[XY], names: Sequence[str], room: Box, line: Sequence[XY] = (), dot: float = 4.0
) -> list[Label | None]:
    """A place for the name of each point inside of `room`, beside a `line` rather than on it; None where there is none."""
    taken = [Box(x - dot, y - dot, x + dot, y + dot) for x, y in points]
    passed = [Box(x - 2, y - 2, x + 2, y + 2) for x, y in _along(line)]
    found: list[Label | None] = []
    for point, name in zip(points, names, strict=True):
        free = [
            (way + CROSSED * any(box.meets(spot) for spot in passed), n, box, way)
            for n, (box, way) in enumerate(_around(point, len(name) * SIGN))
            if box.within(room) and not any(box.meets(other) for other in taken)
        ]
        if not free:
            found.append(None)
            continue
        *_, box, way = min(free)
        taken.append(box)
        found.append(Label(name, box, way > 0))
    return found


def _around(point: XY, width: float) -> Iterator[tuple[Box, float]]:
    """Boxes around a point, the nearest first, with how far each is, from 0 to 1."""
    x, y = point
    sides = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))
    for across, down in sides:
        yield _box(x + across * NEAR, y + down * NEAR * (1.3 if not across else 1), width, across, down), 0.0
    away = NEAR + STEP
    while away <= FARTHEST:
        for n in range(12):
            right, below = cos(n * pi / 6), sin(n * pi / 6)
            yield _box(x + right * away, y + below * away, width, round(right), round(below)), away / FARTHEST
        away += STEP


def _box(x: float, y: float, width: float, across: float, down: float) -> Box:
    """The box of which a corner, or the middle of a side, is at a point and which lies away from it."""
    left = x - width / 2 + across * width / 2
    top = y - HIGH / 2 + down * HIGH / 2
    return Box(left, top, left + width, top + HIGH)


def _along(line: Sequence[XY]) -> Iterator[XY]:
    """Points every few steps along a line."""
    for (x, y), (to_x, to_y) in pairwise(line):
        n = max(1, round(hypot(to_x - x, to_y - y) / 4))
        for i in range(n + 1):
            yield x + (to_x - x) * i / n, y + (to_y - y) * i / n
