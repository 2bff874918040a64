"""A benchmark grades greedy answers, by task, with intervals, row by row."""

import pytest

from posttrain.functional.statistics import wilson
from posttrain.methods.measures.benchmark import Benchmark
from posttrain.schema.errors import DataError
from posttrain.schema.settings import keyed, problems

LESSONS = [
    {"prompt": f"say {word}", "completion": word, "task": task}
    for task, word in (("up", "ab"), ("down", "cd"), ("down", "ef"))
]
QUESTIONS = [{"prompt": row["prompt"], "answer": row["completion"], "task": row["task"]} for row in LESSONS]


@pytest.fixture
def taught(workshop):
    return workshop.run(
        "sft", workshop.model(), workshop.rows(*LESSONS), learning_rate=1e-2, steps=60, schedule="constant"
    )


def test_right_and_wrong_are_told_apart(workshop, taught):
    wrong = [*QUESTIONS[:2], {**QUESTIONS[2], "answer": "something else"}]
    found = workshop.findings("benchmark", taught, workshop.rows(*wrong))
    assert [sample.score for sample in found.samples] == [1.0, 1.0, 0.0]
    assert found.metrics["exact_match"].value == pytest.approx(2 / 3)
    assert (found.metrics["exact_match"].low, found.metrics["exact_match"].high) == wilson(2, 3)[1:3]
    assert found.metrics["exact_match/down"].value == 0.5
    assert found.samples[2].expected == "something else"
    assert found.samples[2].output == "ef"


def test_a_grader_of_ones_own(workshop, taught):
    found = workshop.findings(
        "benchmark", taught, workshop.rows(*QUESTIONS), grader="tests.methods.measures.test_benchmark:length"
    )
    assert found.metrics["length"].value == pytest.approx(0.2)


def length(output, row):
    return len(output) / 10


def test_rows_keep_their_name_between_models(workshop, taught):
    data = workshop.rows(*QUESTIONS)
    ids = [
        [s.id for s in workshop.findings("benchmark", m, data, max_new_tokens=8).samples]
        for m in (workshop.model(), taught)
    ]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3


def test_a_grader_with_options(workshop, taught):
    found = workshop.findings("benchmark", taught, workshop.rows(*QUESTIONS), grader={"regex": {"pattern": "[ab]"}})
    assert [sample.score for sample in found.samples] == [1.0, 0.0, 0.0]
    assert found.metrics["regex"].value == pytest.approx(1 / 3)
    assert "no_verdict" not in found.metrics


def unsure(output, row, *, of=""):
    return None if output == of or not of else 1.0


def test_answers_without_a_verdict_are_counted_and_left_out(workshop, taught):
    name, data = "tests.methods.measures.test_benchmark:unsure", workshop.rows(*QUESTIONS)
    found = workshop.findings("benchmark", taught, data, grader={name: {"of": "cd"}})
    assert [sample.output for sample in found.samples] == ["ab", "ef"]
    assert (found.metrics["unsure"].value, found.metrics["unsure"].n) == (1.0, 2)
    assert (found.metrics["no_verdict"].value, found.metrics["no_verdict"].n) == (1, 3)
    with pytest.raises(DataError, match="'unsure' has no verdict on any of 3 answers"):
        workshop.findings("benchmark", taught, data, grader=name)


@pytest.mark.parametrize(
    ("grader", "said"),
    [
        ("exac", "no grader 'exac'. Did you mean 'exact'?"),
        ({"regex": {"patern": "a"}}, "no option 'patern'. Did you mean 'pattern'?"),
        ({"regex": {"pattern": "("}}, "is no regular expression"),
        ("no.such:thing", "Cannot load 'no.such:thing'"),
        (["exact"], "Write `exact` or"),
    ],
)
def test_a_wrong_grader_is_found_before_anything_runs(grader, said):
    ((path, problem),) = problems(Benchmark, {"data": "rows.jsonl", "grader": grader})
    assert path == "grader" and said.lower() in problem.message.lower() and ".." not in problem.message


def test_what_was_kept_of_a_named_grader_is_still_found():
    """The options of a grader are part of its setting, so that a name alone has the key it always had."""
    assert keyed(Benchmark(data="rows.jsonl", grader="exact"))["grader"] == "exact"
