"""Sampled rows are conversations that the next stage reads, the same for the same seed."""

from posttrain.data.read import read
from posttrain.schema.rows import Conversation

PROMPTS = [{"prompt": "say a", "answer": "a", "task": "say"}, {"prompt": "say b", "answer": "b", "task": "say"}]
SHORT = {"sampling": {"max_new_tokens": 5, "temperature": 1.0}}


def test_n_answers_a_prompt_as_conversations(workshop):
    made = workshop.run("sample", workshop.model(), workshop.rows(*PROMPTS), n=3, **SHORT)
    rows = read(made, Conversation).rows
    assert [row.messages[0].content for row in rows] == ["say a"] * 3 + ["say b"] * 3
    assert all(row.messages[-1].role == "assistant" and row.task == "say" for row in rows)
    assert made.facts["rows"] == 6
    assert len({row.messages[-1].content for row in rows[:3]}) > 1


def test_the_seed_decides(workshop):
    data = workshop.rows(*PROMPTS)
    options = {"n": 2, **SHORT}
    one = workshop.run("sample", workshop.model(), data, **options)
    other = workshop.run("sample", workshop.model(), data, seed=1, **options)
    assert one.digest != other.digest


def test_the_next_stage_reads_them(workshop):
    made = workshop.run("sample", workshop.model(), workshop.rows(*PROMPTS), n=2, **SHORT)
    taught = workshop.run("sft", workshop.model(), (made,), steps=1)
    assert taught.facts["rows"] == 4
