"""What graders give is a number or no verdict, and a grader that fails says so."""

import math

import pytest

from posttrain.engine import judging
from posttrain.engine.grading import asked, grader, named, short_name
from posttrain.models.endpoint import Reply
from posttrain.models.judge import Judge
from posttrain.schema.errors import DataError, UsageError
from posttrain.schema.rows import Message, Prompt

HERE = __name__


def said(output, row, *, value=1.0):
    return value


def failing(output, row):
    raise KeyError("no such column")


def strict(output, row):
    raise DataError("A row to be graded has no answer.")


class Counting:
    """Grades many at once."""

    def __init__(self, start: int = 0):
        self.start = start

    def __call__(self, output, row):
        return self.many([output], [row])[0]

    def many(self, outputs, rows):
        return [float(self.start + n) for n, _ in enumerate(outputs)]


@pytest.mark.parametrize(
    ("value", "score"),
    [(1, 1.0), (True, 1.0), (0.25, 0.25), (-3, -3.0), (None, None), (math.nan, None), (math.inf, None), ("0.5", 0.5)],
)
def test_a_finite_number_or_no_verdict(value, score):
    assert grader(f"{HERE}:said", {"value": value})("", {}) == score


def test_what_is_no_number():
    with pytest.raises(UsageError, match=r"gave 'good'\. Return a number, or None"):
        grader(f"{HERE}:said", {"value": "good"})("", {})


def test_a_grader_that_fails_says_on_what():
    with pytest.raises(UsageError, match=r"failing' failed on the answer 'five' with KeyError: 'no such column'"):
        grader(f"{HERE}:failing")("five", {})
    with pytest.raises(DataError, match=r"^A row to be graded has no answer"):
        grader(f"{HERE}:strict")("five", {})


def test_many_at_once_where_a_grader_can():
    assert grader(f"{HERE}:Counting", {"start": 5}).many(["a", "b"], [{}, {}]) == [5.0, 6.0]
    assert grader("exact").many(["a", "b"], [{"answer": "a"}, {"answer": "a"}]) == [1.0, 0.0]


def test_how_recipes_name_a_grader():
    assert named("exact") == ("exact", {})
    assert named({"regex": {"pattern": "a"}}) == ("regex", {"pattern": "a"})
    assert named({"exact": None}) == ("exact", {})
    assert short_name("my.module:nice") == "nice"
    for wrong in ({}, {"a": {}, "b": {}}, {"regex": "a"}, 5, ["exact"]):
        with pytest.raises(UsageError, match="Write `exact` or"):
            named(wrong)


def test_a_row_as_graders_get_it():
    row = Prompt((Message("user", "2+3?"),), "5", "sums", columns={"tests": "assert True"})
    assert asked(row) == {"answer": "5", "task": "sums", "prompt": "2+3?", "tests": "assert True"}


def test_a_judge_as_a_grader(monkeypatch):
    def decide(question):
        word = next(line for line in question.splitlines() if line.startswith("verdict-")).partition(":")[0]
        return f"{word}: 10" if "> five" in question else "I cannot say."

    made = []

    def loaded(settings, model):
        made.append(settings.endpoint.model)
        return Judge(settings, lambda questions: [Reply(decide(question)) for question in questions])

    monkeypatch.setattr(judging, "load_judge", loaded)
    score = grader("judge", {"endpoint": {"url": "http://localhost/v1", "model": "wise"}, "rubric": "that it is true."})
    assert not made  # a key is needed when it is asked, not when a recipe is read
    assert score.many(["five", "six"], [{"prompt": "2+3?"}] * 2) == [1.0, None]
    assert score("five", {"prompt": "2+3?"}) == 1.0
    assert made == ["wise"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "grader 'judge': one judge is needed"),
        ({"model": "lab"}, r"behind an address. Give `endpoint:"),
        (
            {"endpoint": {"url": "http://h/v1", "model": "m"}, "rubrik": "x"},
            r"no option 'rubrik'. Did you mean 'rubric'",
        ),
        ({"endpoint": {"url": "ftp://h", "model": "m"}}, "http://HOST/v1"),
    ],
)
def test_a_judge_that_is_none(options, said):
    with pytest.raises(UsageError, match=said):
        grader("judge", options)
