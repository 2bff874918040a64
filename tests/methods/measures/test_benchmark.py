"""A benchmark grades greedy answers, by task, with intervals, row by row."""

import pytest

from posttrain.functional.statistics import wilson

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
