"""What reports show of a model that scores; notes that anyone may have written are passed over where they are no numbers."""

import json
import re
from dataclasses import replace
from math import inf, nan

import pytest

from posttrain.report.card import card
from posttrain.report.charts import columns, reliability
from posttrain.report.html import html
from posttrain.report.markdown import markdown
from posttrain.report.terminal import WIDTH, summary
from posttrain.report.trust import trust
from posttrain.report.view import view
from posttrain.schema.findings import Findings, Metric
from posttrain.schema.record import ModelRecord, RunRecord, StageRecord
from tests.report.test_reports import Page, rendered

NOTES = {
    "calibration": [
        {"low": 0.5, "high": 0.6, "n": 10, "confidence": 0.55, "right": 0.4},
        {"low": 0.9, "high": 1.0, "n": 90, "confidence": 0.97, "right": 0.95},
    ],
    "margins": {"edges": [-1.0, 0.0, 1.0, 2.0], "counts": [4, 30, 66]},
    "hacked": [
        {"probe": "flattery", "by": 1.5, "prompt": "Why?", "honest": "Because.", "preferred": "Great! Because."}
    ],
}
METRICS = {
    "accuracy": Metric(0.91, 100, 0.84, 0.95),
    "hacks": Metric(1, 6, unit="count", better="lower"),
    "hack/flattery": Metric(0.77, 100, 0.68, 0.84, better="lower"),
}
QUALITY = Findings("quality", "reward_quality", METRICS, (), NOTES)


def record(found: Findings = QUALITY, name: str = "reward", **facts) -> RunRecord:
    size = {"chat": Findings("chat", "benchmark", {"exact_match": Metric(0.5, 10, 0.2, 0.8)})}
    base = ModelRecord("base", "a", "p", "dense", 5, size)
    stage = StageRecord(name, "reward", "objective", "base", name, "made", 1.0, {"data": "pairs"}, facts)
    return RunRecord("trust", "", (stage,), (base, ModelRecord(name, "b", "q", "reward", 5, {found.name: found})))


def test_what_nothing_is_compared_with_stands_alone():
    (part,) = view(record()).stages
    assert part.alone == (QUALITY,) and part.comparison is not None and part.comparison.changes == ()
    assert [found.name for found in view(record()).alone] == ["chat"]  # of the base
    (found,) = part.trusts
    assert (len(found.sure), found.margins.counts, found.cheats[0].probe) == (2, (4, 30, 66), "flattery")


def test_what_is_compared_is_not_shown_twice(run):
    assert all(part.alone == () for part in view(run).stages) and view(run).alone == ()


def test_the_page_draws_both_charts_and_shows_the_cheat():
    page = Page(html(record()))
    charts = [svg for svg in page.all("svg") if svg["class"] == "chart"]
    assert len(charts) == 2
    titles = [data for tags, data in page.texts if tags[-2:] == ("svg", "title")]
    assert titles == [
        "how often reward is right, by how sure it is; the straight line is where both are the same",
        "margins of reward, from −1 to 2; below zero it is wrong",
    ]
    for expected in ("hack/flattery", "77.0 %", "68.0 – 84.0 %", "Great! Because.", "prefers flattery here", "−1 to 0"):
        assert expected in page.text(), expected
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_markdown_and_terminal_hold_the_same_numbers():
    shown = markdown(record())
    assert "| `quality.hack/flattery` | **77.0 %** | 68.0 – 84.0 % | 100 |" in shown
    assert "| 90% – 100% | 90 | 97.0% | **95.0%** |" in shown
    assert "`quality` prefers `flattery` here:" in shown and "Great! Because." in rendered(shown).text()
    lines = summary(record())
    assert "quality of reward" in lines and all(len(line) <= WIDTH for line in lines)
    assert any(line.strip().startswith("hack/flattery") and "77.0 %" in line for line in lines)


def test_the_card_of_a_reward_model_says_how_it_is_loaded():
    shown = card(record(offset=1.25), "reward")
    assert "pipeline_tag: text-classification" in shown and "AutoModelForSequenceClassification" in shown
    assert "scores 1.25: take that off" in shown
    assert "| `quality.hack/flattery` | 77.0 % | 68.0 – 84.0 % |" in shown
    adapted = record(offset=1.25)
    stage = replace(adapted.stages[0], settings={"adapter": {"lora": {"rank": 4}}})
    shown = card(replace(adapted, stages=(stage,)), "reward")
    assert "library_name: peft" in shown and 'from_pretrained("BASE", num_labels=1)' in shown


def test_a_base_that_scores_is_shown_too():
    only = RunRecord("measure", "", (), (ModelRecord("base", "a", "p", "reward", 5, {"quality": QUALITY}),))
    assert len([svg for svg in Page(html(only)).all("svg") if svg["class"] == "chart"]) == 2
    assert "| `quality.hacks` | **1** | – | 6 |" in markdown(only)
    assert "quality of base" in summary(only)


# Charts


def test_dots_lie_where_they_are_right_and_grow_with_what_they_stand_for():
    svg = reliability([(0.5, 0.0), (1.0, 1.0)], [1, 4], "t", "i")
    dots = re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"/>', svg)
    assert dots == [("46.0", "166.0", "4.0"), ("350.0", "10.0", "6.0")]
    assert 'class="even" d="M46.0 88.0L350.0 10.0"' in svg


def test_columns_are_as_high_as_their_counts_and_those_below_zero_are_told_apart():
    svg = columns([-1.0, 0.0, 1.0], [1, 2], "t", "i")
    found = re.findall(r'<rect class="([\w ]+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/>', svg)
    assert found == [("column below", "46.5", "88.0", "151.0", "78.0"), ("column", "198.5", "10.0", "151.0", "156.0")]


# Notes that anyone wrote

EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    "notes",
    [
        {},
        {"calibration": EVIL, "margins": EVIL, "hacked": EVIL},
        {"calibration": [EVIL, None, {}, {"low": EVIL}], "hacked": [EVIL, {}, {"probe": 1}], "margins": {"edges": 3}},
        {"calibration": [{"low": 0.5, "high": 0.6, "n": 1, "confidence": 0.5, "right": value} for value in (nan, inf, 7, "1", True, 10**400)]},
        {"margins": {"edges": [0, 1], "counts": [nan]}},
        {"margins": {"edges": [0, 1], "counts": [0]}},
        {"margins": {"edges": [0, 0], "counts": [1]}},
        {"margins": {"edges": [0, inf], "counts": [1]}},
        {"margins": {"edges": [0, 10**400], "counts": [1]}},
        {"margins": {"edges": [0, 1, 2], "counts": [1]}},
        {"margins": {"edges": [0, 1], "counts": [10**400]}},
    ],
)  # fmt: skip
def test_notes_that_are_no_numbers_are_passed_over(notes):
    odd = replace(QUALITY, notes=notes)
    assert trust(odd) is None
    page = Page(html(record(odd)))
    assert not page.all("script") and not page.all("svg")


def test_hostile_names_and_examples_stay_text(hostile):
    evil = {**NOTES, "hacked": [{"probe": t, "by": 1, "prompt": t, "honest": t, "preferred": t} for t in hostile]}
    run = record(replace(QUALITY, name=EVIL, notes=evil), name=EVIL)
    page = Page(html(run))
    assert not page.all("script") and not page.all("img") and EVIL in page.text()
    shown = rendered(markdown(run))
    assert not shown.all("script") and not shown.all("img") and not shown.all("a")


def test_many_bins_and_long_examples_are_cut():
    many = [{"low": 0.5, "high": 1.0, "n": 1, "confidence": 0.9, "right": 0.9}] * 5000
    long = [{"probe": "p", "by": 1, "prompt": "x" * 10**6, "honest": "y" * 10**6, "preferred": "z" * 10**6}]
    notes = json.loads(json.dumps({"calibration": many, "hacked": long}))
    assert len(html(record(replace(QUALITY, notes=notes)))) < 100_000
