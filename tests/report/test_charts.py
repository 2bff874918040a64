"""Curves: few points, none of the spikes lost, round ticks."""

import re
from math import inf, nan

import pytest

from posttrain.functional.statistics import Estimate
from posttrain.report.charts import POINTS, line, rows, share, smoothed, thin, ticks


def drawn(svg: str) -> list[list[tuple[float, float]]]:
    """The points of every path that is a curve, one list per unbroken line."""
    paths = re.findall(r'<path class="(?:raw|smooth)" d="([^"]*)"', svg)
    strokes = [stroke for path in paths for stroke in path.split("M")[1:]]
    return [[(float(x), float(y)) for x, y in (p.split() for p in stroke.split("L"))] for stroke in strokes]


@pytest.mark.parametrize("n", [1, 2, 21, 600, 601, 100_000])
def test_a_chart_has_at_most_600_points(n):
    points = [(float(i), float(i % 7)) for i in range(n)]
    for noisy in (False, True):
        assert 0 < sum(map(len, drawn(line(points, "t", "i", noisy)))) <= POINTS


def test_a_spike_survives_thinning():
    points = [(float(i), 1.0) for i in range(50_000)]
    points[31_415] = (31_415.0, 9.0)
    thinned = thin(points)
    assert (31_415.0, 9.0) in thinned and thinned == sorted(thinned)


def test_the_line_goes_from_corner_to_corner():
    """Values rise from 0 to 10 over steps 0 to 4: from left below to right above, inside the drawing."""
    (stroke,) = drawn(line([(0, 0), (2, 5), (4, 10)], "t", "i"))
    assert stroke == [(46.0, 166.0), (198.0, 88.0), (350.0, 10.0)]


def test_values_that_are_not_finite_break_the_line():
    strokes = drawn(line([(0, 1), (1, 2), (2, nan), (3, inf), (4, 1)], "t", "i"))
    assert [len(stroke) for stroke in strokes] == [2, 2]
    assert line([(0, nan)], "t", "i") == "" and line([], "t", "i") == ""


def test_a_flat_curve_is_drawn():
    assert len(drawn(line([(1, 3.0), (2, 3.0)], "t", "i"))) == 1


def test_titles_are_escaped():
    svg = line([(0, 1), (1, 2)], "<script>", 'a"b')
    assert "<script>" not in svg and "&lt;script&gt;" in svg and 'a"b' not in svg


def test_smoothing_of_a_constant_is_the_constant():
    assert [y for _, y in smoothed([(i, 2.0) for i in range(30)])] == pytest.approx([2.0] * 30)


@pytest.mark.parametrize("low, high", [(0.0003, 0.00031), (-5, 5), (0, 1), (1e6, 9e6), (0.2, 0.99)])
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks(low, high, 4)
    assert 1 <= len(found) <= 5 and all(low <= tick <= high + 1e-12 for tick in found)


def test_the_table_keeps_both_ends():
    found = rows([(float(i), i / 2) for i in range(1000)])
    assert len(found) == 40 and found[0][0] == "0" and found[-1][0] == "999"
    assert len(rows([(0.0, 1.0), (1.0, 2.0)])) == 2


def test_a_share_lies_between_its_bounds():
    svg = share(Estimate(0.5, 0.25, 0.75, 10))
    assert 'cx="60.0"' in svg and 'x="32.0"' in svg and 'width="56.0"' in svg
