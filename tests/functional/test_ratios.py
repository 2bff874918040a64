"""A ratio of sums, by hand."""

import pytest

from posttrain.functional.ratios import ratio_of_sums
from posttrain.functional.statistics import Z


def test_by_hand():
    # R = 6/4; residuals a - R b = (2 - 1.5, 4 - 4.5) = (.5, -.5), sd with one degree less = sqrt(.5)
    found = ratio_of_sums([2.0, 4.0], [1.0, 3.0])
    half = Z * 0.5**0.5 / (2 * 2**0.5)
    assert found.value == pytest.approx(1.5)
    assert (found.low, found.high) == (pytest.approx(1.5 - half), pytest.approx(1.5 + half))


def test_equal_rates_have_no_spread():
    found = ratio_of_sums([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert found.low == pytest.approx(found.high)


@pytest.mark.parametrize(("tops", "bottoms"), [([], []), ([1.0], [0.0]), ([1.0], [1.0, 2.0])])
def test_nothing_to_divide_by(tops, bottoms):
    with pytest.raises(ValueError, match="a ratio needs"):
        ratio_of_sums(tops, bottoms)
