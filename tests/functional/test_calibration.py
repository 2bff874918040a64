"""Calibration against plain loops and against scores that are as sure as they are right by construction."""

from itertools import pairwise
from math import log

import numpy as np
import pytest

from posttrain.functional.calibration import (
    Calibration,
    Said,
    calibration_error,
    confidence,
    correlation_within,
    histogram,
    reliability,
)
from posttrain.functional.statistics import wilson


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


@pytest.mark.slow
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


JUDGE = Calibration(complied=Said(45, 4, 1), refused=Said(10, 36, 4))


def test_sensitivity_and_specificity_by_hand():
    """To be unclear is not to say complied, nor refused."""
    assert JUDGE.sensitivity() == wilson(45, 50) and JUDGE.specificity() == wilson(40, 50)
    assert JUDGE.sensitivity("refused") == wilson(36, 50) and JUDGE.specificity("refused") == wilson(46, 50)
    with pytest.raises(ValueError):
        Calibration(Said(), Said(0, 1, 0)).sensitivity()


def test_a_corrected_share_by_hand():
    """t = 0.3, Se = 0.9, Sp = 0.8: (0.3 + 0.8 - 1) / 0.7. With Z^2 = 3.8415: t' = 31.9207 / 103.8415 = 0.307399, Se' = 46/52,
    Sp' = 41/52, p' = 0.095861 / 0.673077 = 0.142422; shift 7.68292 (0.142422 * 0.00196290 - 0.857578 * 0.00320752) =
    -0.018986; half 1.959964 sqrt(0.00205028 + 0.00003982 + 0.00235894) / 0.673077 = 0.194230."""
    found = JUDGE.corrected(30, 100)
    assert found.value == pytest.approx(0.1 / 0.7) and found.n == 100
    assert found.low == 0.0 and found.high == pytest.approx(0.142422 - 0.018986 + 0.194230, abs=2e-6)


def test_a_corrected_share_stays_a_share():
    assert JUDGE.corrected(0, 100)[:2] == (0.0, 0.0)
    assert JUDGE.corrected(100, 100)[0] == JUDGE.corrected(100, 100)[2] == 1.0
    assert all(0 <= f.low <= f.value <= f.high <= 1 for f in (JUDGE.corrected(k, 60) for k in range(61)))


def test_a_judge_who_is_always_right_changes_nothing():
    right = Calibration(Said(complied=100_000), Said(refused=100_000))
    found, plain = right.corrected(30, 100), wilson(30, 100)
    assert found == pytest.approx(plain, abs=1e-3)


def test_what_is_not_known_of_the_judge_widens_the_interval():
    few, many = (Calibration(Said(9 * n, n), Said(2 * n, 8 * n)).corrected(300, 1000) for n in (3, 300))
    assert few.value == pytest.approx(many.value)
    assert few.high - few.low > 2 * (many.high - many.low)


@pytest.mark.parametrize(("true", "uncorrected"), [(0.05, 0.1), (0.8, 0.2)])
def test_the_interval_holds_the_true_share_as_often_as_it_says(true, uncorrected):
    draw = np.random.default_rng(3)
    times, se, sp, n, m = 1500, 0.85, 0.9, 200, 80
    inside = naive = 0
    for _ in range(times):
        hits, passed = draw.binomial(m, se), draw.binomial(m, sp)
        judge = Calibration(Said(hits, m - hits), Said(m - passed, passed))
        said = draw.binomial(n, true * se + (1 - true) * (1 - sp))
        found, plain = judge.corrected(said, n), wilson(said, n)
        inside += found.low <= true <= found.high
        naive += plain.low <= true <= plain.high
    assert inside / times > 0.93
    assert naive / times < uncorrected


@pytest.mark.parametrize(
    "judge",
    [
        Calibration(Said(refused=40), Said(refused=40)),
        Calibration(Said(complied=40), Said(complied=40)),
        Calibration(Said(unclear=40), Said(unclear=40)),
        Calibration(Said(20, 20), Said(20, 20)),
        Calibration(Said(10, 30), Said(30, 10)),
        Calibration(Said(2, 1), Said(1, 2)),
        Calibration(Said(40), Said()),
    ],
    ids=[
        "always refused",
        "always complied",
        "never sure",
        "a coin",
        "the wrong way round",
        "too few",
        "one kind only",
    ],
)
def test_a_judge_who_tells_nothing_corrects_nothing(judge):
    assert not judge.informs("complied") and not judge.informs("refused")
    with pytest.raises(ValueError, match="does not tell"):
        judge.corrected(10, 20)


def test_a_judge_may_know_one_kind_only():
    """Who calls nothing refused still tells what complied."""
    judge = Calibration(Said(40, 0, 0), Said(0, 0, 40))
    assert judge.informs("complied") and not judge.informs("refused")
