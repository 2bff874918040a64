"""Seeking the last mixture that is within a limit, however far off the predictions are."""

from hypothesis import given
from hypothesis import strategies as st

from posttrain.engine.budgeting import seek


def sought(losses: list[float], predicted: list[float], limit: float, tries: int) -> tuple[int | None, list[int]]:
    asked: list[int] = []

    def measure(n: int) -> float:
        asked.append(n)
        return losses[n]

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
