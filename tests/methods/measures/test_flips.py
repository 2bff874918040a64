"""Every way in which an answer may turn is counted, with its interval, and shown."""

import pytest

from posttrain.functional.statistics import wilson
from posttrain.report.compare import compare
from posttrain.report.html import html
from posttrain.report.markdown import markdown
from posttrain.report.samples import samples
from posttrain.schema.record import ModelRecord, RunRecord, StageRecord

BEFORE = {
    "say 1": "Paris", "say 2": "Rome", "say 3": "sorry, no.", "say 4": '{"a": 1}', "say 5": "it is here.", "say 6": "no",
}  # fmt: skip
AFTER = BEFORE | {
    "say 1": "Lima", "say 2": "Oslo", "say 3": "it is <b>so</b>.", "say 4": '{"a": ', "say 5": "sorry, no.", "say 6": "yes, " * 9,
}  # fmt: skip
ANSWERS = {"say 1": "Paris", "say 2": "Oslo"}


def taught(workshop, lessons):
    rows = workshop.rows(*({"prompt": prompt, "completion": said} for prompt, said in lessons.items()))
    return workshop.run("sft", workshop.model(), rows, learning_rate=1e-2, steps=120, schedule="constant")


def asked(workshop):
    graded = ({"prompt": prompt, "answer": answer} for prompt, answer in ANSWERS.items())
    return workshop.rows(*graded) + workshop.rows(*({"prompt": prompt} for prompt in BEFORE if prompt not in ANSWERS))


@pytest.mark.slow
def test_all_kinds_are_counted_and_shown(workshop):
    first, second = taught(workshop, BEFORE), taught(workshop, AFTER)
    options = {"against": "sft", "max_new_tokens": 20, "inputs": {"against": first}}
    same, found = (workshop.findings("flips", model, asked(workshop), **options) for model in (first, second))
    assert [sample.output for sample in same.samples] == list(BEFORE.values())
    told = {name: metric.value for name, metric in found.metrics.items() if "/" not in name}
    sixth, half = 1 / 6, 1 / 2
    assert told == pytest.approx({
        "flipped": 1, "changed": 1, "right_to_wrong": half, "wrong_to_right": half, "refusals_appeared": sixth,
        "refusals_vanished": sixth, "json_broken": sixth, "json_mended": 0, "endings_lost": sixth, "endings_found": 0,
    })  # fmt: skip
    assert (found.metrics["refusals_vanished"].low, found.metrics["refusals_vanished"].high) == wilson(1, 6)[1:3]
    assert (found.metrics["right_to_wrong"].n, found.metrics["refusals_vanished"].n) == (2, 6)
    assert found.metrics["right_to_wrong"].better == "lower" and found.metrics["wrong_to_right"].better == "higher"
    assert found.notes["counts"]["endings_lost"] == 1 and found.notes["against"] == "sft"
    assert not any(metric.value for metric in same.metrics.values())

    records = [ModelRecord(name, "", "", "dense", 1, {"flips": each}) for name, each in (("sft", same), ("rtn", found))]
    shown = samples(compare(*records))
    assert sorted(sample.what for sample in shown) == [
        "endings lost", "json broken", "refusals appeared", "refusals vanished", "right to wrong", "wrong to right",
    ]  # fmt: skip
    stage = StageRecord("rtn", "rtn", "transform", "sft", "rtn", "made")
    record = RunRecord("r", "", (stage,), tuple(records))
    assert "it is &lt;b&gt;so&lt;/b&gt;." in html(record) and "<b>" not in html(record)
    assert "flips`: refusals vanished" in markdown(record)


@pytest.mark.slow
def test_without_answers_nothing_is_right_or_wrong_unless_a_grader_is_named(workshop):
    model = taught(workshop, BEFORE)
    rows = workshop.rows(*({"prompt": prompt} for prompt in BEFORE))
    options = {"against": "sft", "max_new_tokens": 20, "inputs": {"against": model}}
    assert "right_to_wrong" not in workshop.findings("flips", model, rows, **options).metrics
    graded = workshop.findings("flips", model, rows, grader={"regex": {"pattern": "o"}}, **options)
    assert graded.metrics["right_to_wrong"].n == 6
