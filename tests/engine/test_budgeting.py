"""Seeking the last mixture that is within limits, however far off the predictions are, and the smallest of several formats."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.engine.budgeting import Mixtures, closest, seek, smallest
from posttrain.engine.losing import Limits, Lost
from posttrain.functional.budget import Option
from posttrain.schema.errors import ModelError


def sought(losses: list[float], predicted: list[float], limit: float, tries: int) -> tuple[int | None, list[int]]:
    asked: list[int] = []

    def measure(n: int) -> Lost:
        asked.append(n)
        return Lost(losses[n], None, losses[n] <= limit)

    return seek(measure, predicted, limit, tries), asked


def test_a_good_prediction_takes_two_tries():
    losses = [0.1 * n for n in range(20)]
    assert sought(losses, losses, 0.75, 5) == (7, [7, 8])


def test_a_prediction_that_is_off_by_a_factor_is_corrected():
    losses = [0.1 * n for n in range(20)]
    found, asked = sought(losses, [2 * loss for loss in losses], 0.75, 5)
    assert found == 7
    assert asked[0] == 3
    assert len(asked) <= 4


def test_no_more_is_tried_than_allowed():
    losses = [0.1 * n for n in range(20)]
    found, asked = sought(losses, [9 * loss for loss in losses], 1.5, 1)
    assert (found, len(asked)) == (1, 1)


def test_nothing_within_is_told():
    assert sought([1.0, 2.0], [1.0, 2.0], 0.5, 5)[0] is None


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=30), st.floats(0.1, 10), st.floats(0.01, 20))
def test_what_is_found_is_within_and_the_last_one_with_enough_tries(rises: list[float], off: float, limit: float):
    losses = [sum(rises[:n]) for n in range(len(rises) + 1)]
    found, asked = sought(losses, [loss * off for loss in losses], limit, 40)
    assert found == max(n for n, loss in enumerate(losses) if loss <= limit)
    assert len(asked) == len(set(asked))


def asked_of(flips: list[float], kl: float | None, most: float, **options: int) -> tuple[int | None, list[int]]:
    """The same where the divergence of n steps is n / 100, as predicted, and so many refusals flip."""
    asked: list[int] = []

    def measure(n: int) -> Lost:
        asked.append(n)
        if kl is not None and n / 100 > kl:
            return Lost(n / 100, None, False)
        return Lost(n / 100, flips[n], flips[n] <= most)

    return seek(measure, [n / 100 for n in range(len(flips))], kl, 40, **options), asked


def test_where_refusals_stand_in_the_way_it_is_halved():
    found, asked = asked_of([0.0] * 8 + [0.1] * 33, kl=0.3, most=0.05)
    assert (found, asked) == (7, [30, 14, 6, 10, 8, 7])


def test_refusals_alone_can_be_limited():
    found, asked = asked_of([0.0] * 8 + [0.1] * 33, kl=None, most=0.05)
    assert found == 7 and len(asked) <= 6


def test_prompts_are_asked_of_those_alone_that_hold_the_divergence():
    found, asked = asked_of([0.0] * 41, kl=0.3, most=0.05)
    assert (found, asked) == (30, [30, 31])


def test_what_is_too_large_is_not_tried():
    assert asked_of([0.0] * 5 + [1.0] * 36, kl=0.3, most=0.0, low=9, first=10) == (None, [10])
    assert asked_of([0.0] * 41, kl=0.3, most=0.0, low=9, first=10)[0] == 30


@dataclass
class OnPaper(Mixtures):
    """Mixtures of one matrix whose losses are given, not measured."""

    losses: Sequence[float] = ()

    def measure(self, n: int) -> Lost:
        self.known[n] = Lost(self.losses[n], None, self.limits.kl is None or self.losses[n] <= self.limits.kl)
        return self.known[n]


def on_paper(form: str, sizes: Sequence[float], losses: Sequence[float], kl: float | None) -> OnPaper:
    """A matrix of 100 bytes that may have some `sizes`, each of which loses what stands beside it; 10 bytes beside it."""
    options = {
        "m": [Option(form + str(n), size, loss) for n, (size, loss) in enumerate(zip(sizes, losses, strict=True))]
    }
    nothing: Any = None
    storing = cast(Any, SimpleNamespace(form=form))
    return OnPaper(
        nothing, nothing, Limits(nothing, kl), storing, options, {"m": "m"}, nothing, 10, 110, nothing, losses=losses
    )


LOSSES = [0.001, 0.01, 0.1]


def both(kl: float | None, blocks: Sequence[float]) -> list[OnPaper]:
    return [on_paper("integers", [50, 40, 30], LOSSES, kl), on_paper("blocks", blocks, LOSSES, kl)]


@pytest.mark.parametrize(("blocks", "form"), [([52, 38, 32], "blocks"), ([52, 42, 32], "integers")])
def test_the_smallest_of_all_formats_is_taken(blocks, form):
    found = smallest(both(0.05, blocks), None, tries=5)
    assert (found.of.storing.form, found.n) == (form, 1)


def test_a_format_that_would_be_larger_is_tried_once():
    formats = both(0.05, [52, 42, 32])
    smallest(formats, None, tries=5)
    assert list(formats[1].known) == [2]


def test_the_closest_of_all_formats_is_taken():
    formats = [on_paper("integers", [50, 40], [0.001, 0.01], None), on_paper("blocks", [52, 39], [0.001, 0.009], None)]
    assert closest(formats, 50 / 110).of.storing.form == "blocks"


def test_both_limits_hold_or_what_was_closest_is_told():
    assert smallest([on_paper("integers", [50, 40, 30], LOSSES, 0.05)], 50 / 110, tries=5).n == 1
    with pytest.raises(ModelError) as told:
        smallest([on_paper("integers", [50, 40, 30], LOSSES, 0.05)], 40 / 110, tries=5)
    assert str(told.value) == (
        "No mixture of 36.4% of the bytes loses as little as 0.05 nats a token; the closest loses 0.1 nats a token. The "
        "smallest found that does has 45.5%: write `bytes: 45.5%` or more, or a larger `kl`."
    )
    with pytest.raises(ModelError, match=r"and none larger that was tried does\. Write a larger `kl`"):
        smallest([on_paper("integers", [50, 40, 30], LOSSES, 1e-4)], 40 / 110, tries=5)
