"""What was watched is told in numbers alone, and in all reports."""

from dataclasses import replace

import pytest

from posttrain.report.html import html
from posttrain.report.markdown import markdown
from posttrain.report.watched import watched

FORGET = {
    "general": {"before": 2.0, "after": 2.08},
    "learnt": {"before": 10.0, "after": 4.0},
    "at_most": 0.05,
    "crossed_at": [20, 60],
}
TOLD = (
    "Perplexity of the rows that were learnt 10 → 4 (-60.0%), of general text 2 → 2.08 (+4.0%, at most +5.0%). "
    "The budget was crossed, and the last good weights put back, at steps 20, 60."
)


def test_gain_and_loss_stand_side_by_side():
    assert watched({"forget": FORGET}) == (TOLD,)
    quiet = {"general": FORGET["general"], "crossed_at": []}
    assert watched({"forget": quiet}) == ("Perplexity of general text 2 → 2.08 (+4.0%). The budget was never crossed.",)


def test_all_reports_show_it(run):
    stages = (replace(run.stages[0], facts={**run.stages[0].facts, "forget": FORGET}), *run.stages[1:])
    shown = replace(run, stages=stages)
    assert TOLD in markdown(shown)
    assert TOLD in html(shown).replace("&#43;", "+")


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"forget": "<script>"},
        {"forget": {"general": {"before": 0, "after": 1}}},
        {"forget": {"general": {"before": "<b>", "after": 1}}},
        {"forget": {"general": {"before": 1, "after": float("nan")}}},
        {"forget": {"general": {"before": 1, "after": 10**400}}},
        {"forget": {"general": [1, 2]}},
        {"stop_early": {"best_step": "<i>", "held_out_loss": 1}},
        {"stop_early": {"best_step": 1, "held_out_loss": None}},
    ],
)
def test_what_is_no_number_is_not_told(facts):
    assert watched(facts) == ()


def test_words_among_the_steps_are_left_out():
    assert "<" not in watched({"forget": {**FORGET, "crossed_at": ["<b>", 4]}})[0]
