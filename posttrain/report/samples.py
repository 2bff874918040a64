"""Rows that two models answered, chosen to be read: what turned first, then what changed most."""

from dataclasses import dataclass
from itertools import chain, zip_longest

from posttrain.functional.flips import BETTER

from .compare import Comparison, Contrast, Pair

SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """One row answered by both models. `what` says in words how the answers differ."""

    measure: str
    what: str
    pair: Pair


def samples(compared: Comparison | None, most: int = SAMPLES) -> tuple[Sample, ...]:
    """Up to `most` rows with readable answers: flips first, then the largest changes, measures taking turns."""
    if compared is None:
        return ()
    ordered = [_ordered(contrast) for contrast in compared.contrasts]
    turns = [s for s in chain.from_iterable(zip_longest(*ordered)) if s]
    return tuple(sorted(turns, key=_dullness)[:most])


def _ordered(contrast: Contrast) -> list[Sample]:
    flips = [pair for turn in zip_longest(contrast.gained, contrast.lost) for pair in turn if pair]
    flipped = {id(pair) for pair in flips}
    rest = [pair for pair in contrast.pairs if id(pair) not in flipped]
    rest.sort(key=lambda pair: -abs(pair[1].score - pair[0].score))
    return [
        Sample(contrast.measure, _what(pair, contrast), pair)
        for pair in [*flips, *rest]
        if pair[0].output or pair[1].output
    ]


def _what(pair: Pair, contrast: Contrast) -> str:
    before, after = pair
    if turned := [kind.replace("_", " ") for kind in after.task.split(", ") if kind in BETTER]:
        return ", ".join(turned)
    if contrast.p is not None:
        words = ["right" if row.score == contrast.right else "wrong" for row in pair]
        return f"{words[0]} → {words[1]}" if words[0] != words[1] else f"{words[0]} both times"
    change = f"{before.score:.3g} → " if before.score != after.score else ""
    return f"score {change}{after.score:.3g}"


def _dullness(sample: Sample) -> int:
    """Flips and changed scores, then answers that at least read differently, then the rest."""
    before, after = sample.pair
    return 0 if before.score != after.score else 1 if before.output != after.output else 2
