"""Quality over bytes: who stands where, who is beaten, and names that never lie on one another."""

import re
from math import nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.report.frontier import HEIGHT, WIDTH, frontier
from posttrain.report.html import html
from posttrain.report.labels import Box, labels
from posttrain.report.markdown import markdown
from posttrain.report.sizes import Sizes, sizes
from posttrain.report.terminal import summary
from posttrain.schema.findings import Findings, Metric
from posttrain.schema.record import ModelRecord, RunRecord, StageRecord

KL = {"sft": (9e6, 0.0), "eight": (5e6, 1e-4), "four": (3e6, 0.01), "worse": (3.1e6, 0.02), "three": (2e6, 0.3)}


def model(name: str, n_bytes: float, quality: float, method: str = "fidelity") -> ModelRecord:
    metric = Metric(quality, 9, quality * 0.9, quality * 1.1, *(("nats", "lower") if method == "fidelity" else ()))
    found = {
        "near": Findings("near", method, {"kl": metric}, notes={"against": "sft"} if method == "fidelity" else {}),
        "size": Findings("size", "size", {"bytes": Metric(n_bytes, unit="bytes", better="lower")}),
    }
    return ModelRecord(name, "", "", "dense", 1, found)


def run(places=KL, method: str = "fidelity") -> RunRecord:
    stages = (StageRecord(name, name, "transform", "base" if name == "sft" else "sft", name, "made") for name in places)
    made = (model(name, *place, method) for name, place in places.items())
    return RunRecord("r", "", tuple(stages), (model("base", 9e6, 5.0 if method == "fidelity" else 0.1, method), *made))


def shown(record: RunRecord) -> Sizes:
    found = sizes(record)
    assert found is not None
    return found


def test_the_model_and_all_made_from_it_stand_there_from_the_smallest_on():
    found = shown(run())
    assert [(place.model, place.best) for place in found.places] == [
        ("three", True), ("four", True), ("worse", False), ("eight", True), ("sft", True),
    ]  # fmt: skip
    assert found.name == "near.kl" and found.low_is_good and found.share(found.places[0]) == pytest.approx(2 / 9)


def test_where_nothing_is_held_against_another_the_first_benchmark_tells():
    found = shown(run({"sft": (9e6, 0.7), "four": (3e6, 0.6), "worse": (4e6, 0.5)}, "benchmark"))
    assert [place.model for place in found.places if not place.best] == ["worse", "base"]
    assert not found.low_is_good


def test_a_model_as_good_that_is_larger_is_beaten_and_an_equal_one_is_not():
    found = shown(run({"sft": (9e6, 0.0), "four": (3e6, 0.01), "also": (3e6, 0.01), "larger": (4e6, 0.01)}))
    assert [place.best for place in found.places] == [True, True, False, True]


@pytest.mark.parametrize(
    "places",
    [{}, {"sft": (9e6, 0.0)}, {"sft": (9e6, 0.0), "same": (9.1e6, 0.1)}, {"sft": (9e6, 0.0), "odd": (3e6, nan)}],
)
def test_without_two_models_of_unlike_size_there_is_nothing_to_show(places):
    assert sizes(run(places)) is None


def test_a_model_that_was_not_measured_so_is_passed_over():
    record = run()
    bare = ModelRecord("bare", "", "", "dense", 1, {})
    assert len(shown(RunRecord("r", "", record.stages, (*record.models, bare))).places) == 5


def circles(svg: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(y)) for x, y in re.findall(r'<circle class="(?:dot|other)" cx="([^"]*)" cy="([^"]*)"', svg)
    ]


def test_every_model_is_drawn_inside_and_the_line_joins_the_best():
    svg = frontier(shown(run()), "t", "i")
    dots = circles(svg)
    assert len(dots) == 5 and svg.count('class="other"') == 1
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in dots)
    assert [x for x, _ in dots] == sorted(x for x, _ in dots)
    by_loss = [
        y for _, (_, y) in sorted(zip((place.quality.value for place in shown(run()).places), dots, strict=True))
    ]
    assert by_loss == sorted(by_loss, reverse=True)  # what loses more stands higher
    (path,) = re.findall(r'class="frontier" d="([^"]*)"', svg)
    assert path.count("L") == 3
    assert ">0</text>" in svg and ">0.01</text>" in svg and ">5 MB</text>" in svg


def test_halving_bytes_is_always_as_wide():
    places = {"sft": (8e6, 0.0), "a": (4e6, 0.01), "b": (2e6, 0.1), "c": (1e6, 1.0)}
    xs = [x for x, _ in circles(frontier(shown(run(places)), "t", "i"))]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2) == pytest.approx(xs[3] - xs[2], abs=0.2)


def test_all_reports_show_it():
    record = run()
    assert 'class="frontier"' in html(record) and "Quality by size" in html(record)
    text = markdown(record)
    assert "| `three` | 2.0 MB | 22.2 % | **0.300 nats** | 0.270 – 0.330 nats | no |" in text
    assert any(
        line.split()[:5] == ["worse", "3.1", "MB", "34.4", "%"] and line.endswith("beaten") for line in summary(record)
    )


def test_a_run_whose_models_are_alike_shows_none(run):
    assert "Quality by size" not in html(run) and "Quality by size" not in markdown(run)


def test_hostile_names_are_inert(hostile):
    places = {"sft": (9e6, 0.0), **{name: (1e6 * n, 0.1 * n) for n, name in enumerate(hostile, 1)}}
    drawn = frontier(shown(run(places)), hostile[0], "i")
    assert "<script" not in drawn and "<svg/" not in drawn and "\x1b" not in drawn and "\u202e" not in drawn
    assert "<script" not in html(run(places))


ROOM = Box(64, 4, 678, 315)
SPOTS = st.lists(st.tuples(st.floats(70, 670), st.floats(10, 310)), min_size=1, max_size=14)


@settings(max_examples=60, deadline=None)
@given(SPOTS, st.integers(1, 26))
def test_names_lie_on_no_other_name_and_no_point(points, length):
    found = [label for label in labels(points, ["m" * length] * len(points), ROOM) if label]
    dots = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for n, label in enumerate(found):
        assert label.box.within(ROOM)
        assert not any(label.box.meets(dot) for dot in dots)
        assert not any(label.box.meets(other.box) for other in found[:n])


def test_a_lone_name_stands_right_beside_its_point_and_none_is_lost_among_twelve():
    (label,) = labels([(300, 200)], ["four"], ROOM)
    assert label is not None and not label.far and label.box.left == 308
    close = [(300 + 9 * n, 150 + 5 * (n % 3)) for n in range(12)]
    found = labels(close, ["gptq-4-g128"] * 12, ROOM)
    assert None not in found and any(label.far for label in found if label)
