"""Where to save when there is a budget: the next step down is always the one that loses least for each byte it saves.

Every item has options, from the largest to the smallest, each with its bytes and its loss; losses add up. Options that a mixture of
a larger and a smaller one beats are left out (the lower convex hull), so that the best first steps of any length are the first
steps of one and the same list.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

Kind = int | str
"""What a way to store something is called: its bits, or the name of a type."""


class Option(NamedTuple):
    """One way to store an item."""

    name: Kind
    bytes: float
    loss: float


class Step(NamedTuple):
    """Storing an item in the next smaller way: what that saves and what it loses."""

    item: str
    option: Kind
    saved: float
    lost: float


def steps(options: Mapping[str, Sequence[Option]]) -> list[Step]:
    """All steps down from the largest option of every item, the cheapest first."""
    found = [step for item, each in options.items() for step in _of(item, hull(each))]
    return sorted(
        found, key=lambda step: step.lost / step.saved
    )  # the hull of an item is convex: its steps stay in order


def hull(options: Sequence[Option]) -> list[Option]:
    """The options from the largest on that no mixture of others beats."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda each: (-each.bytes, each.loss)):
        if kept and option.bytes == kept[-1].bytes:
            continue
        while kept and option.loss <= kept[-1].loss:
            kept.pop()  # smaller and no worse
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) >= _slope(kept[-1], option):
            kept.pop()
        kept.append(option)
    return kept


def _slope(larger: Option, smaller: Option) -> float:
    return (smaller.loss - larger.loss) / (larger.bytes - smaller.bytes)


def _of(item: str, options: Sequence[Option]) -> list[Step]:
    return [Step(item, b.name, a.bytes - b.bytes, b.loss - a.loss) for a, b in pairwise(options)]


def first_within(taken: Sequence[Step], limit: float, start: float) -> int:
    """How many of the first steps keep the sum of losses, beginning at `start`, within a limit."""
    for n, step in enumerate(taken):
        start += step.lost
        if start > limit:
            return n
    return len(taken)


def first_below(taken: Sequence[Step], limit: float, start: float) -> int | None:
    """How many steps it takes until the bytes, beginning at `start`, are within a limit; None if all are not enough."""
    for n, step in enumerate(taken):
        if start <= limit:
            return n
        start -= step.saved
    return len(taken) if start <= limit else None


def chosen(options: Mapping[str, Sequence[Option]], taken: Sequence[Step]) -> dict[str, Kind]:
    """The option of every item after some first steps."""
    found = {item: hull(each)[0].name for item, each in options.items()}
    return found | {step.item: step.option for step in taken}
