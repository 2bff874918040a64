"""Degeneration sees answers that repeat themselves, are empty, or do not end, and how open the next token is."""

import pytest
import torch

from posttrain.functional.diversity import distinct, repetition
from posttrain.functional.statistics import bootstrap_mean, wilson
from posttrain.models.load import load_format, load_policy
from posttrain.schema.rows import Message, Prompt

SAID = ("abcdefgh", "abababababab", "", "abcdefgh")
LESSONS = [{"prompt": f"say {n}", "completion": said} for n, said in enumerate(SAID) if said]


@pytest.fixture
def taught(workshop):
    return workshop.run(
        "sft", workshop.model(), workshop.rows(*LESSONS), learning_rate=1e-2, steps=120, schedule="constant"
    )


def questions(workshop):
    return workshop.rows(*({"prompt": row["prompt"]} for row in LESSONS))


def test_answers_are_taken_as_they_are(workshop, taught):
    found = workshop.findings("degeneration", taught, questions(workshop), n=2, max_new_tokens=16)
    assert [sample.output for sample in found.samples] == [row["completion"] for row in LESSONS]
    repeated = [0.0, repetition("ab" * 6, 2), 0.0]  # a token a letter
    assert [sample.score for sample in found.samples] == pytest.approx(repeated)
    mean = bootstrap_mean(repeated)
    assert found.metrics["repetition"].value == pytest.approx(mean.value)
    assert (found.metrics["repetition"].low, found.metrics["repetition"].high) == pytest.approx((mean.low, mean.high))
    looping = found.metrics["looping"]
    assert (looping.value, looping.low, looping.high, looping.n) == wilson(1, 3)
    assert (found.metrics["empty"].value, found.metrics["unfinished"].value) == (0.0, 0.0)
    wanted = distinct([row["completion"] for row in LESSONS], 2)
    assert wanted is not None and found.metrics["distinct"].value == pytest.approx(wanted.value)
    assert [flag.title for flag in found.flags] == ["33% of the answers go round in circles"]


def test_what_does_not_end_is_unfinished(workshop, taught):
    found = workshop.findings("degeneration", taught, questions(workshop), n=2, max_new_tokens=4)
    assert found.metrics["unfinished"].value == 1.0
    assert [sample.output for sample in found.samples] == [row["completion"][:4] for row in LESSONS]


@pytest.mark.slow
def test_an_answer_without_a_word_is_empty(workshop):
    lessons = workshop.rows({"prompt": "say nothing", "completion": " "})
    silent = workshop.run("sft", workshop.model(), lessons, learning_rate=1e-2, steps=80, schedule="constant")
    found = workshop.findings("degeneration", silent, workshop.rows({"prompt": "say nothing"}), max_new_tokens=8)
    assert (found.metrics["empty"].value, found.metrics["repetition"].value) == (1.0, 0.0)
    assert "distinct" not in found.metrics


@torch.no_grad()
def test_entropy_is_that_of_plain_logits(workshop, taught):
    found = workshop.findings("degeneration", taught, questions(workshop), max_new_tokens=6)
    policy = load_policy(taught)
    form = load_format(taught, policy.tokenizer)
    sums, n = 0.0, 0
    for row, sample in zip(LESSONS, found.samples, strict=True):
        asked = form.ask(Prompt((Message("user", row["prompt"]),)))
        said = form.tokenizer(sample.output)["input_ids"]
        logits = policy.model(torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1].double()
        assert logits.argmax(-1).tolist() == said
        p = logits.softmax(-1)
        sums, n = sums - float((p * p.log()).sum()), n + len(said)
    assert found.metrics["unfinished"].value == 1.0  # or the token that ends an answer would be one more
    assert found.metrics["entropy"].value == pytest.approx(sums / n, abs=1e-4)
    before = workshop.findings("degeneration", workshop.model(), questions(workshop), max_new_tokens=6)
    assert before.metrics["entropy"].value > 3 * found.metrics["entropy"].value
