"""Intervals and tests against numbers derived by hand; the derivation stands with each."""

import doctest
from math import inf, nan, sqrt

import numpy as np
import pytest

from posttrain.functional import statistics
from posttrain.functional.statistics import Z, bootstrap_mean, mcnemar, paired_difference, wilson, wins


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(statistics).failed == 0


def test_wilson_solves_the_score_equation():
    """Wilson's bounds are the shares p that lie exactly Z standard errors of *p* from what was seen."""
    seen = wilson(7, 20)
    for bound in (seen.low, seen.high):
        assert abs(seen.value - bound) / sqrt(bound * (1 - bound) / 20) == pytest.approx(Z)
    assert seen.low < 0.35 < seen.high


@pytest.mark.parametrize("n", [1, 16, 1000])
def test_wilson_at_its_simple_places(n):
    """At none right p (1-p) vanishes: high = (Z²/2n + Z²/2n) / (1 + Z²/n) = Z² / (n + Z²). At half right the half width
    is Z / (1 + Z²/n) * sqrt(1/4n + Z²/4n²) = Z / 2 sqrt(n + Z²)."""
    assert wilson(0, n)[:3] == pytest.approx((0, 0, Z**2 / (n + Z**2)))
    assert wilson(n, n)[:3] == pytest.approx((1, n / (n + Z**2), 1))
    half = Z / (2 * sqrt(n + Z**2))
    assert wilson(n / 2, n)[:3] == pytest.approx((0.5, 0.5 - half, 0.5 + half))


@pytest.mark.parametrize("successes, n", [(0, 0), (3, 2), (-1, 5), (nan, 5)])
def test_wilson_refuses_what_is_no_share(successes, n):
    with pytest.raises(ValueError, match="n > 0"):
        wilson(successes, n)


def test_bootstrap_of_two_values_reaches_both():
    """Two draws from {0, 1} average 0, ½, 1 with chances ¼, ½, ¼: both outer fortieths lie at the ends."""
    assert bootstrap_mean([0.0, 1.0]) == (0.5, 0.0, 1.0, 2)


def test_bootstrap_is_as_wide_as_the_normal_theory_says():
    """Of 400 values of variance 1 the mean has standard error 1/20, so the interval is close to ±0.098."""
    values = np.tile([-1.0, 1.0], 200)
    found = bootstrap_mean(values)
    assert found.value == 0
    assert found.high - found.low == pytest.approx(2 * Z / 20, rel=0.1)


def test_bootstrap_depends_on_values_and_seed_only():
    values = np.random.default_rng(3).normal(size=50)
    assert bootstrap_mean(values, 1) == bootstrap_mean(values, 1)
    assert bootstrap_mean(values, 1) != bootstrap_mean(values, 2)


def test_bootstrap_in_blocks_covers_every_resample(monkeypatch):
    """Drawing 2000 x 3 at once or in blocks of 1 takes the same numbers from the generator in the same order."""
    whole = bootstrap_mean([1.0, 2.0, 4.0])
    monkeypatch.setattr(statistics, "BLOCK", 3)
    assert bootstrap_mean([1.0, 2.0, 4.0]) == whole


@pytest.mark.parametrize("values", [[], [nan], [1.0, inf], [[1.0]]])
def test_scores_must_be_finite_and_some(values):
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean(values)


def test_newcombe_when_nothing_flips():
    """8 rows right in both, 8 in none. Both shares are ½ with Wilson half width d = Z / 2 sqrt(16 + Z²). The product
    8 * 8 - 0 is lessened by n/2 = 8, so phi = 56 / sqrt(8⁴) = 7/8, and each bound is d sqrt(1 - 2 * 7/8 + 1) = d / 2."""
    scores = [1.0] * 8 + [0.0] * 8
    d = Z / (2 * sqrt(16 + Z**2))
    assert paired_difference(scores, scores) == pytest.approx((0, -d / 2, d / 2, 16))


def test_newcombe_when_everything_flips():
    """8 gained, 8 lost: phi = -64 / 64 = -1, and each bound is d sqrt(1 + 2 + 1) = 2 d."""
    before, after = [0.0] * 8 + [1.0] * 8, [1.0] * 8 + [0.0] * 8
    d = Z / (2 * sqrt(16 + Z**2))
    assert paired_difference(before, after) == pytest.approx((0, -2 * d, 2 * d, 16))


def test_newcombe_when_all_turn_right():
    """From none to all of n: no correlation (a margin is empty); low = 1 - sqrt(w² + w²) with w = Z² / (n + Z²)."""
    found = paired_difference([0.0] * 10, [1.0] * 10)
    w = Z**2 / (10 + Z**2)
    assert found == pytest.approx((1, 1 - w * sqrt(2), 1, 10))


def test_the_paired_interval_holds_the_truth_as_often_as_it_says():
    """Rows right in both, gained, lost, neither with chances .5 .2 .1 .2: the truth is +0.1."""
    draw = np.random.default_rng(0)
    kinds = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    held = 0
    for _ in range(400):
        rows = kinds[draw.choice(4, size=60, p=[0.5, 0.2, 0.1, 0.2])]
        found = paired_difference(rows[:, 0], rows[:, 1])
        held += found.low <= 0.1 <= found.high
    assert 0.92 <= held / 400 <= 0.985


def test_graded_scores_are_compared_row_by_row():
    """Rows differ by 10 from each other and by exactly ½ between the models: pairing leaves no doubt at all."""
    before = np.arange(0.0, 100.0, 10.0)
    assert paired_difference(before, before + 0.5) == (0.5, 0.5, 0.5, 10)


def test_a_swap_turns_the_difference_around():
    before, after = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    there, back = paired_difference(before, after), paired_difference(after, before)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))


def test_rows_must_pair_up():
    with pytest.raises(ValueError, match="same rows, not 2 and 3"):
        paired_difference([0.0, 1.0], [0.0, 1.0, 1.0])


def test_mcnemar_is_symmetric_and_exact():
    """10 flips, 1 of them back: 2 (1 + 10) / 1024. As many each way: 1."""
    assert mcnemar(9, 1) == mcnemar(1, 9) == 22 / 1024
    assert mcnemar(6, 6) == 1.0
    assert 0 < mcnemar(3000, 1000) < 1e-200


def test_wins_count_ties_as_half():
    """One win, two ties, one loss of four: (1 + 2/2) / 4 = ½."""
    assert wins([1, 2, 3, 4], [2, 2, 3, 1]) == wilson(2, 4)
    assert wins([0.0] * 6, [1.0] * 6) == wilson(6, 6)
