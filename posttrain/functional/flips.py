"""Flips: what one model's answer is and another's is no more, or the other way round.

    right     the grader gives it all that there is       right_to_wrong, wrong_to_right
    refuses   one of its first sentences declines         refusals_vanished, refusals_appeared
    json      it is one JSON object or list               json_broken, json_mended
    ends      it ended by itself                          endings_lost, endings_found

A mean may stay while rows go either way: flips count both. What refuses is told by `refusals`, whose rule knows English and Chinese.
"""

from typing import NamedTuple

from .graders import FENCED, json_value
from .refusals import complied


class Traits(NamedTuple):
    """What an answer is. `right` is None where no grader has a verdict."""

    right: bool | None
    refuses: bool
    json: bool
    ends: bool


KINDS = {
    "right": ("right_to_wrong", "wrong_to_right"),
    "refuses": ("refusals_vanished", "refusals_appeared"),
    "json": ("json_broken", "json_mended"),
    "ends": ("endings_lost", "endings_found"),
}
"""What a flip of each trait is called: when it goes, and when it comes."""
GOOD = ("wrong_to_right", "json_mended", "endings_found")
BETTER = {kind: "higher" if kind in GOOD else "lower" for pair in KINDS.values() for kind in pair}
"""Whether more or fewer of a kind are wished for. A refusal that comes may be as bad as one that goes."""


def traits(answer: str, ends: bool, score: float | None = None) -> Traits:
    """What an answer is, by its text, whether it ended, and what a grader gave it.

    >>> traits("I can't help with that.", True), traits('{"a": 1}', True, 1.0)
    (Traits(right=None, refuses=True, json=False, ends=True), Traits(right=True, refuses=False, json=True, ends=True))
    """
    return Traits(None if score is None else score >= 1, refuses(answer), is_json(answer), ends)


def refuses(answer: str) -> bool:
    """Whether an answer declines; one that cannot be told does not."""
    return complied(answer, {}) == 0.0


def is_json(answer: str) -> bool:
    """Whether an answer is one JSON object or list, in a fence or bare; a number alone is no format."""
    fenced = FENCED.fullmatch(answer.strip())
    try:
        return isinstance(json_value(fenced[1] if fenced else answer), dict | list)
    except (ValueError, RecursionError):
        return False


def flips(before: Traits, after: Traits) -> tuple[str, ...]:
    """The kinds of flips from one answer to another.

    >>> flips(traits("4", True, 1.0), traits("5", False, 0.0))
    ('right_to_wrong', 'endings_lost')
    """
    found = []
    for trait, (gone, come) in KINDS.items():
        was, is_now = getattr(before, trait), getattr(after, trait)
        if None not in (was, is_now) and was != is_now:
            found.append(gone if was else come)
    return tuple(found)
