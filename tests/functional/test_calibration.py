"""Calibration against plain loops and against scores that are as sure as they are right by construction."""

from itertools import pairwise
from math import log

import numpy as np
import pytest

from posttrain.functional.calibration import (
    calibration_error,
    confidence,
    correlation_within,
    histogram,
    reliability,
)


def logit(p):
    return log(p / (1 - p))


def test_bins_by_hand():
    """Of four pairs at 3/4 two are right; of two at 0.95 both; the weights are unlike."""
    margins = [logit(0.75), -logit(0.75), logit(0.75), -logit(0.75), logit(0.95), logit(0.95)]
    weights = [1, 1, 0.5, 0.5, 1, 1]
    low, high = reliability(margins, weights, 5)
    assert low == pytest.approx((0.7, 0.8, 4, 0.75, 0.5))
    assert high == pytest.approx((0.9, 1.0, 2, 0.95, 1.0))
    found = calibration_error(margins, weights, range(6), 5)
    assert found.value == pytest.approx((3 * 0.25 + 2 * 0.05) / 5)
    assert found.low <= found.value <= found.high and found.n == 6


def test_no_margin_is_never_right():
    assert confidence([0.0]).tolist() == [0.5]
    assert reliability([0.0, 0.0], [1, 1])[0][3:] == (0.5, 0.0)


def test_scores_as_sure_as_they_are_right_have_next_to_no_error():
    draw = np.random.default_rng(0)
    p = draw.uniform(0.5, 1, 20_000)
    margins = np.where(draw.uniform(size=len(p)) < p, 1, -1) * np.log(p / (1 - p))
    groups = np.arange(len(p))
    assert calibration_error(margins, np.ones(len(p)), groups).value < 0.015
    sure = calibration_error(3 * margins, np.ones(len(p)), groups)  # three times as sure, and as often right
    assert sure.value > 0.1
    assert sure.low < sure.value < sure.high and sure.high - sure.low < 0.05


def test_the_error_agrees_with_its_bins():
    draw = np.random.default_rng(1)
    margins, weights = draw.normal(size=200), draw.uniform(0.1, 1, 200)
    bins = reliability(margins, weights)
    place = np.minimum((confidence(margins) - 0.5) * 20, 9).astype(int)
    shares = [weights[place == n].sum() / weights.sum() for n in np.unique(place)]
    wanted = sum(share * abs(b.confidence - b.right) for share, b in zip(shares, bins, strict=True))
    assert calibration_error(margins, weights, range(200)).value == pytest.approx(wanted)
    assert sum(b.n for b in bins) == 200


def test_correlation_leaves_out_what_prompts_differ_in():
    """Within each prompt the longer answer scores lower, though prompts with longer answers score higher."""
    groups, lengths = [0, 0, 1, 1, 2, 2], [1.0, 2.0, 11.0, 12.0, 21.0, 22.0]
    scores = [1.0, 0.0, 6.0, 5.0, 11.0, 10.0]
    assert np.corrcoef(scores, lengths)[0, 1] > 0.9
    assert correlation_within(scores, lengths, groups).value == pytest.approx(-1.0)


def test_correlation_is_pearsons_where_there_is_one_prompt_and_has_an_interval_over_prompts():
    draw = np.random.default_rng(2)
    x = draw.normal(size=50)
    y = x + draw.normal(size=50)
    assert correlation_within(x, y, [7] * 50).value == pytest.approx(np.corrcoef(x, y)[0, 1])
    many = correlation_within(np.tile(x, 2), np.tile(y, 2), np.arange(100) % 20)
    assert -1 <= many.low < many.value < many.high <= 1 and many.n == 20


def test_what_never_differs_goes_by_nothing():
    assert correlation_within([1.0, 1.0, 2.0, 2.0], [1.0, 5.0, 2.0, 9.0], [0, 0, 1, 1])[:3] == (0, 0, 0)


def test_nothing_is_judged_on_nothing():
    with pytest.raises(ValueError, match="at least one pair"):
        calibration_error([], [], [])
    with pytest.raises(ValueError, match="at least one answer"):
        correlation_within([], [], [])
    assert histogram([]) == ((), ())


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [-2.0, -2.0], [-1e-9, 4e5], [0.3, -0.7, 0.05, 0.9]])
def test_a_histogram_holds_every_value_and_zero_is_an_edge(values):
    edges, counts = histogram(values)
    assert sum(counts) == len(values) and len(edges) == len(counts) + 1 <= 22
    assert edges[0] <= min(values) and max(values) <= edges[-1]
    assert not edges[0] < 0 < edges[-1] or 0 in edges
    for n, (low, high) in enumerate(pairwise(edges)):
        inside = [v for v in values if low <= v < high or (v == high == edges[-1])]
        assert counts[n] == len(inside)
