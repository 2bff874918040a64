"""A win rate counts wins, ties and losses against the rows' own answers, whoever decides."""

import re

import pytest

from posttrain.engine.job import Job
from posttrain.functional.statistics import wilson
from posttrain.methods.measures import win_rate as module
from posttrain.methods.measures.win_rate import WinRate
from posttrain.models.endpoint import Reply
from posttrain.models.judge import Judge, Judging
from posttrain.pipeline.plan import load
from posttrain.schema.errors import DataError
from posttrain.schema.settings import problems

LESSONS = [
    {"prompt": f"say {word}", "completion": word, "task": task}
    for task, word in (("up", "abc"), ("down", "cd"), ("down", "e"))
]
REFERENCES = ("zz", "zz", "zz")
RULE = f"{__name__}:length"


def length(output, row, *, none=""):
    return None if output == none else len(output)


@pytest.fixture
def taught(workshop):
    return workshop.run(
        "sft", workshop.model(), workshop.rows(*LESSONS), learning_rate=1e-2, steps=60, schedule="constant"
    )


def questions(workshop, *references):
    rows = zip(LESSONS, references, strict=False)
    return workshop.rows(*({"prompt": r["prompt"], "answer": a, "task": r["task"]} for r, a in rows))


def deciding(monkeypatch, decide):
    """Every judge that is loaded decides so, on the quoted texts; what it was asked comes back."""
    seen = []

    def ask(asked):
        seen.extend(asked)
        return [Reply(decide(question)) for question in asked]

    def loaded(settings, model, seed):
        seen.append(model)
        return Judge(settings, ask, seed)

    monkeypatch.setattr(module, "load_judge", loaded)
    return seen


def longer(question):
    _, a, b = re.findall(r"^> (.*)$", question, re.MULTILINE)
    word = re.findall(r"^(verdict-\w+): ", question, re.MULTILINE)[-1]
    return f"{word}: {'tie' if len(a) == len(b) else 'A' if len(a) > len(b) else 'B'}"


def test_a_rule_decides(workshop, taught):
    found = workshop.findings("win_rate", taught, questions(workshop, *REFERENCES), rule=RULE)
    assert [sample.output for sample in found.samples] == ["abc", "cd", "e"]
    assert [sample.score for sample in found.samples] == [1.0, 0.5, 0.0]
    assert {name: found.metrics[name].value for name in ("wins", "ties", "losses", "no_verdict")} == {
        "wins": 1, "ties": 1, "losses": 1, "no_verdict": 0,
    }  # fmt: skip
    metric = found.metrics["win_rate"]
    assert (metric.value, metric.low, metric.high, metric.n) == wilson(1.5, 3)
    assert (found.metrics["win_rate/up"].value, found.metrics["win_rate/down"].value) == (1.0, 0.25)
    assert "orders_disagree" not in found.metrics
    assert found.samples[0].expected == "zz"


def test_the_models_own_answers_tie_with_themselves(workshop, taught):
    found = workshop.findings("win_rate", taught, questions(workshop, "abc", "cd", "e"), rule="exact")
    assert found.metrics["win_rate"].value == 0.5 and found.metrics["ties"].value == 3


@pytest.mark.parametrize("unscored", ["abc", "zz"])
def test_what_the_rule_cannot_score_is_counted_and_left_out(workshop, taught, unscored):
    data = questions(workshop, "zz", "y", "zz" if unscored == "abc" else "y")
    found = workshop.findings("win_rate", taught, data, rule={RULE: {"none": unscored}})
    assert (found.metrics["no_verdict"].value, found.metrics["win_rate"].n) == (1, 2)
    assert "abc" not in [sample.output for sample in found.samples]


def test_a_judge_decides(workshop, taught, monkeypatch):
    seen = deciding(monkeypatch, longer)
    found = workshop.findings("win_rate", taught, questions(workshop, *REFERENCES), judge=Judging(model="any"))
    assert [sample.score for sample in found.samples] == [1.0, 0.5, 0.0]
    assert (found.metrics["win_rate"].value, found.metrics["orders_disagree"].value) == (0.5, 0)
    assert found.notes["judge"] == {"asked": 6}
    assert len(seen) == 7 and "> say abc" in seen[1]


def test_a_judge_that_goes_by_place_and_one_that_is_silent(workshop, taught, monkeypatch):
    data = questions(workshop, *REFERENCES)
    deciding(monkeypatch, lambda q: re.findall(r"^(verdict-\w+: )", q, re.MULTILINE)[-1] + "A")
    found = workshop.findings("win_rate", taught, data, judge=Judging(model="by place"))
    assert (found.metrics["ties"].value, found.metrics["orders_disagree"].value) == (3, 3)
    deciding(monkeypatch, lambda q: longer(q) if "> abc" in q else "Who knows.")
    found = workshop.findings("win_rate", taught, data, judge=Judging(model="half silent", rubric="size"))
    assert (found.metrics["no_verdict"].value, found.metrics["win_rate"].value, len(found.samples)) == (2, 1.0, 1)
    assert found.notes["judge"] == {"asked": 6, "unparsed": 4}
    deciding(monkeypatch, lambda q: "Who knows.")
    with pytest.raises(DataError, match=r"no verdict on any of 3 answers \(asked: 6, unparsed: 6\)\. Take a judge"):
        workshop.findings("win_rate", taught, data, judge=Judging(model="silent", rubric="none"))


def test_the_judge_is_the_model_that_the_recipe_names(workshop, taught, monkeypatch, tmp_path):
    seen = deciding(monkeypatch, longer)
    stage = WinRate(data="given", judge=Judging(model="any"))
    other = workshop.model(seed=1)
    stage.measure(Job(tmp_path, tmp_path), taught, **{"data": questions(workshop, "zz"), "judge.model": other})
    assert seen[0] is other
    plan = load("model: lab\nmeasure:\n- win_rate: {data: lab:style/test, judge: {model: ./wise}}")
    assert [source.name for source in plan.measures[0].inputs["judge.model"]] == ["./wise"]


def test_rows_without_an_answer_cannot_be_beaten(workshop, taught):
    with pytest.raises(DataError, match=r"no answer to beat\. Say which column holds it"):
        workshop.findings("win_rate", taught, workshop.rows({"prompt": "say ab"}), rule="exact")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "give either `judge: {model: NAME}` or `rule: GRADER`"),
        ({"rule": "exact", "judge": {"model": "a"}}, "give either `judge"),
        ({"rule": "exac"}, "Did you mean 'exact'?"),
        ({"judge": {"modell": "a"}}, "Did you mean 'judge.model'?"),
    ],
)
def test_settings_that_decide_nothing(values, said):
    found = problems(WinRate, {"data": "rows.jsonl", **values})
    assert any(said in problem.message for _, problem in found), found
