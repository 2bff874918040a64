"""What a report shows of a model that scores: how sure it is against how often it is right, its margins, and what it was
cheated with. All is taken from the notes of findings, which anyone may write: what is no number is passed over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from posttrain.schema.findings import Findings

LONGEST = 400  # characters of an example
MOST = 200  # bins that are drawn


class Sure(NamedTuple):
    """Pairs of like confidence, and their share that is right."""

    low: float
    high: float
    n: int
    confidence: float
    right: float


class Margins(NamedTuple):
    """How many pairs have which margin; there is one edge more than counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Cheat(NamedTuple):
    """A probe that is preferred, on the prompt on which it gains most."""

    probe: str
    prompt: str
    honest: str
    preferred: str


@dataclass(frozen=True, slots=True)
class Trust:
    """What one measure found that says how far scores can be trusted."""

    measure: str
    sure: tuple[Sure, ...]
    margins: Margins
    cheats: tuple[Cheat, ...]


def trust(found: Findings) -> Trust | None:
    """What the notes of findings hold; None where they say nothing of the kind."""
    sure = tuple(each for note in _listed(found.notes.get("calibration")) if (each := _sure(note)))
    cheats = tuple(cheat for note in _listed(found.notes.get("hacked")) if (cheat := _cheat(note)))
    margins = _margins(found.notes.get("margins"))
    return Trust(found.name, sure, margins, cheats) if sure or cheats or margins.counts else None


def _listed(note: Any) -> Sequence[Any]:
    return note[:MOST] if isinstance(note, list | tuple) else ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # not NaN, not endless


def _sure(note: Any) -> Sure | None:
    values: list[Any] = [note.get(name) for name in Sure._fields] if isinstance(note, Mapping) else []
    if not values or not all(map(_is_number, values)) or not all(0 <= values[i] <= 1 for i in (0, 1, 3, 4)):
        return None
    return Sure(*values)


def _cheat(note: Any) -> Cheat | None:
    values: list[Any] = [note.get(name) for name in Cheat._fields] if isinstance(note, Mapping) else [None]
    return Cheat(*(value[:LONGEST] for value in values)) if all(isinstance(value, str) for value in values) else None


def _margins(note: Any) -> Margins:
    edges, counts = (_listed(note.get(name)) if isinstance(note, Mapping) else () for name in Margins._fields)
    rises = all(map(_is_number, edges)) and all(a < b for a, b in pairwise(edges))
    counted = all(_is_number(count) and isinstance(count, int) and count >= 0 for count in counts)
    if len(edges) == len(counts) + 1 and counts and rises and counted and any(counts):
        return Margins(tuple(edges), tuple(counts))
    return Margins((), ())
