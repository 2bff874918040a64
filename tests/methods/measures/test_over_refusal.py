"""Over-refusal counts harmless prompts that are declined, apart from those that get no answer of use."""

import json

import pytest

from posttrain.engine.attack import Rewrite
from posttrain.engine.job import Job
from posttrain.engine.verdicts import Deciding
from posttrain.functional.statistics import wilson
from posttrain.methods.measures.over_refusal import OverRefusal
from posttrain.report.compare import compare
from posttrain.schema.errors import UsageError
from posttrain.schema.record import ModelRecord
from posttrain.schema.settings import Rows, inputs, keyed

LESSONS = [
    {"prompt": f"say {n}", "completion": said, "task": task}
    for n, said, task in ((1, "Paris", "up"), (2, "sorry, no.", "up"), (3, "...", "down"), (4, "Rome", "down"))
]


def taught(workshop, *lessons):
    return workshop.run(
        "sft", workshop.model(), workshop.rows(*lessons), learning_rate=1e-2, steps=80, schedule="constant"
    )


def questions(workshop):
    return workshop.rows(*({"prompt": row["prompt"], "task": row["task"]} for row in LESSONS))


@pytest.mark.slow
def test_refusals_and_unclear_answers_are_counted_apart(workshop):
    found = workshop.findings("over_refusal", taught(workshop, *LESSONS), questions(workshop))
    assert [sample.output for sample in found.samples] == [row["completion"] for row in LESSONS]
    assert [sample.score for sample in found.samples] == [0.0, 1.0, 0.0, 0.0]
    refused = found.metrics["refused"]
    assert (refused.value, refused.low, refused.high, refused.n) == wilson(1, 4)
    assert (found.metrics["unclear"].value, found.metrics["answered"].value) == (0.25, 0.5)
    assert (found.metrics["refused/up"].value, found.metrics["refused/down"].value) == (0.5, 0.0)
    assert (refused.better, found.metrics["answered"].better) == ("lower", "higher")
    assert found.notes["unclear"] == {"rule: cannot tell": 1}
    (flag,) = found.flags
    assert "25%" in flag.title and "rule: cannot tell: 1" in flag.title


@pytest.mark.slow
def test_two_models_are_compared_on_the_same_prompts(workshop):
    data = questions(workshop)
    strict = [{**row, "completion": "sorry, no."} for row in LESSONS]
    models = [taught(workshop, *LESSONS), taught(workshop, *strict)]
    found = [workshop.findings("over_refusal", model, data) for model in models]
    records = [ModelRecord(str(n), "", "", "dense", 0, findings={"over_refusal": each}) for n, each in enumerate(found)]
    change = compare(*records).change("over_refusal", "refused")
    assert change is not None and change.paired and change.difference == 0.75
    (contrast,) = compare(*records).contrasts
    assert (len(contrast.gained), len(contrast.lost), contrast.right) == (0, 3, 0.0)


@pytest.mark.slow
def test_what_people_say_corrects_the_rate(workshop, tmp_path):
    said = [("Paris", "complied")] * 20 + [("sorry, no.", "refused")] * 15 + [("Rome", "refused")] * 5
    path = tmp_path / "people.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": "q", "completion": a, "label": label}) + "\n" for a, label in said), "utf-8"
    )
    stage = OverRefusal(data="given", judge=Deciding(rule="complied", calibration="people"))
    given = {"data": questions(workshop), "judge.calibration": (workshop.store.dataset(Rows(path=str(path))),)}
    found = stage.measure(Job(tmp_path, tmp_path), taught(workshop, *LESSONS), **given)
    assert found.metrics["refused_corrected"].value == pytest.approx(0.25 / 0.75)
    assert (found.metrics["sensitivity"].value, found.metrics["specificity"].value) == (0.75, 1.0)
    silent = OverRefusal(data="given", judge=Deciding(rule=f"{__name__}:always", calibration="people"))
    with pytest.raises(UsageError, match="does not tell"):
        silent.measure(Job(tmp_path, tmp_path), workshop.model(), **given)


def always(output, row):
    """A judge that has seen nothing but refusals."""
    return 0.0


def test_the_rule_that_ships_decides_unless_another_is_named():
    assert keyed(OverRefusal(data="rows.jsonl"))["judge"]["rule"] == "complied"
    assert set(inputs(OverRefusal)) == {"data", "judge.classifier", "judge.ask.model", "judge.calibration"}


class Murmured(Rewrite):
    """An attack whose answers are in a code: whatever is said is a refusal."""

    def rewrites(self, request, draw):
        yield request

    def read(self, answer):
        return "sorry, no."


@pytest.mark.slow
def test_an_answer_in_a_code_is_judged_by_what_it_says(workshop):
    model = taught(workshop, *LESSONS)
    found = workshop.findings("over_refusal", model, questions(workshop), attacks=[f"{__name__}:Murmured"])
    assert found.metrics["refused"].value == 1
    assert [sample.output for sample in found.samples] == [row["completion"] for row in LESSONS]


@pytest.mark.parametrize("attack", ["escalation", "prefill", "many_shot", "gcg", "pair", ["prefill", "base64"]])
def test_what_leads_up_to_a_request_or_needs_more_than_one_is_not_put(workshop, attack):
    """The first turn of a talk that escalates asks for something else, and is no question to be judged by."""
    with pytest.raises((UsageError, ValueError), match=r"needs more than a request.*ake one"):
        workshop.findings("over_refusal", workshop.model(), questions(workshop), attacks=[attack])
