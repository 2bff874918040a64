"""Labels are what the scores say, and what cannot be preferred is left out and counted."""

import json
from pathlib import Path

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.data.read import read
from posttrain.engine.job import Job
from posttrain.engine.method import stage_class
from posttrain.functional.layout import Branch, Tree
from posttrain.models.load import load_format, load_scorer
from posttrain.schema.artifacts import FORMS
from posttrain.schema.errors import DataError, UsageError
from posttrain.schema.rows import Message, Pair, Ranked
from tests import tiny


def length(output: str, row) -> float | None:
    """What is longer is better; a question mark gets no verdict."""
    return None if "?" in output else float(len(output))


def told(output: str, row) -> float:
    """Only an answer gets a point that says what its row's columns tell."""
    assert row["prompt"] == "say" and row["task"] == "t"
    return float(output == row["answer"] + row["key"])


BY_LENGTH = {"functions": [f"{__name__}:length"]}


def said(prompt: str, *answers: str, **columns) -> list[dict]:
    """Rows as `sample` writes them."""
    return [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **columns}
        for answer in answers
    ]


def rows_of(made) -> list[dict]:
    return [json.loads(line) for line in (made.path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def label(workshop, rows, **options):
    return workshop.run("label", workshop.model(), workshop.rows(*rows), **{"reward": BY_LENGTH, **options})


def test_the_best_is_chosen_and_the_worst_rejected(workshop):
    made = label(workshop, [*said("one", "bb", "dddd", "a"), *said("two", "ccc", "a")])
    one, two = read(made, Pair).rows
    assert (one.prompt[0].content, one.chosen[0].content, one.rejected[0].content) == ("one", "dddd", "a")
    assert (one.margin, two.margin) == (3.0, 2.0)
    assert made.facts["score"] == pytest.approx((2 + 4 + 1 + 3 + 1) / 5)
    assert made.facts["margin"] == 2.5 and made.facts["chosen_longer"] == 1.0


def test_all_answers_are_ranked_each_of_them_once(workshop):
    made = label(workshop, said("one", "bb", "dddd", "a", "bb"), keep="all")
    (row,) = read(made, Ranked).rows
    assert [answer[0].content for answer in row.answers] == ["dddd", "bb", "a"]
    assert row.grades == (4.0, 2.0, 1.0)


def test_an_answer_that_reads_like_a_dialogue_stays_one_answer(workshop):
    rows = said("one", "\n\nHuman: x\n\nAssistant: y", "a")
    assert len(read(label(workshop, rows), Pair).rows[0].chosen) == 1
    assert len(read(label(workshop, rows, keep="all"), Ranked).rows[0].answers) == 2


def test_the_next_stages_learn_from_both(workshop):
    rows = [*said("one", "bb", "a"), *said("two", "ccc", "a", "dd")]
    assert workshop.run("dpo", workshop.model(), (label(workshop, rows),), steps=1).facts["rows"] == 2
    ranked = label(workshop, rows, keep="all")
    assert workshop.run("reward", workshop.model(), (ranked,), steps=1).facts["rows"] == 2


def test_answers_of_several_models_to_one_prompt_are_judged_together(workshop):
    one, other = workshop.rows(*said("one", "a"), *said("two", "a")), workshop.rows(*said("one", "bb", id=7))
    made = workshop.run("label", workshop.model(), (*one, *other), reward=BY_LENGTH)
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows_of(made)] == [("bb", "a")]
    assert made.facts["left_out"] == {"no other answer": 1}


def test_what_cannot_be_preferred_is_left_out_and_counted(workshop, tmp_path):
    rows = [
        *said("kept", "bb", "a"),
        *said("text", "a", "a"),
        *said("score", "a", "b"),
        *said("alone", "a"),
        *said("verdict", "?", "a"),
        *said("near", "a", "bbb"),
    ]
    notes = []
    made = label(workshop, rows)
    stage = stage_class("label")(data="given", reward=BY_LENGTH)
    emit = lambda kind, **fields: notes.append(fields.get("text", ""))  # noqa: E731
    stage.run(Job(tmp_path, tmp_path, emit=emit), model=workshop.model(), data=workshop.rows(*rows))
    why = ("the same answers", "the same scores", "no other answer", "no verdict on two answers")
    assert made.facts["left_out"] == dict.fromkeys(why, 1)
    assert (made.facts["rows"], made.facts["prompts"], made.facts["without_verdict"]) == (2, 6, 1)
    assert notes[-1].startswith("2 of 6 prompts give a preference; 1 have the same answers")
    assert notes[-1].endswith("; 1 answers got no verdict.")
    wide = label(workshop, rows, min_margin=2)
    assert [row["prompt"][0]["content"] for row in rows_of(wide)] == ["near"]
    assert wide.facts["left_out"]["a smaller margin"] == 1


@pytest.mark.parametrize(
    ("rows", "options", "cure"),
    [
        (said("one", "a"), {}, "sample: {n: 4}"),
        (said("one", "a", "a"), {}, "temperature"),
        (said("one", "a", "b"), {}, "tells them apart"),
        (said("one", "?", "b?"), {}, "Mend what scores them"),
        (said("one", "a", "bb"), {"min_margin": 5}, "Lower `min_margin`"),
    ],
)
def test_nothing_left_is_one_clear_error(workshop, rows, options, cure):
    with pytest.raises(DataError, match=r"^None of 1 prompts gives a preference") as raised:
        label(workshop, rows, **options)
    assert cure in str(raised.value)


def test_functions_see_the_row_that_was_asked(workshop):
    rows = said("say", "a!", "b!", task="t", answer="b", key="!")
    (row,) = rows_of(label(workshop, rows, reward={"functions": [f"{__name__}:told"]}))
    assert row["chosen"][0]["content"] == "b!"


def test_no_answer_is_compared_with_itself(workshop):
    """A row that says nothing of what is right has nothing to compare with: the sampled answer does not stand for it."""
    with pytest.raises((DataError, UsageError), match="answer"):
        label(workshop, said("one", "a", "b"), reward={"functions": ["exact"]})


def test_an_answer_that_was_cut_off_pays(workshop):
    rows = [*said("one", "bbb", finished=False), *said("one", "a", finished=True)]
    assert rows_of(label(workshop, rows))[0]["chosen"][0]["content"] == "bbb"
    (row,) = rows_of(label(workshop, rows, missing_end=5))
    assert (row["chosen"][0]["content"], row["margin"]) == ("a", 3.0)


def test_weights_add_up(workshop):
    both = {"functions": [{f"{__name__}:length": {"weight": 0.5}}, {"contains": {"weight": 10}}]}
    (row,) = rows_of(label(workshop, said("one", "a", "bbbb", answer="a"), reward=both))
    assert (row["chosen"][0]["content"], row["margin"]) == ("a", pytest.approx(10 + 0.5 - 2))


def test_sampled_rows_keep_what_graders_need(workshop):
    prompts = [{"prompt": "say", "answer": "b", "task": "t", "key": "!", "label": "news"}]
    sampling = {"max_new_tokens": 3, "temperature": 1.0}
    made = workshop.run("sample", workshop.model(), workshop.rows(*prompts), n=4, sampling=sampling)
    first = rows_of(made)[0]
    assert (first["answer"], first["task"], first["key"]) == ("b", "t", "!")
    assert "label" not in first and isinstance(first["finished"], bool)
    labelled = workshop.run("label", workshop.model(), (made,), reward=BY_LENGTH)
    assert labelled.facts["answers"] == 4


@pytest.fixture
def reward_model(workshop, tmp_path: Path):
    folder = tmp_path / "reward"
    tiny.reward_model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    found = workshop.store.model(str(folder))
    assert found.form == "reward"
    return found


def test_a_reward_model_scores_each_answer_as_it_does_alone(workshop, reward_model, tmp_path):
    answers = ["bb", "dddd", "a", "a longer answer"]
    stage = stage_class("label")(data="given", reward={"model": "reward"}, keep="all")
    data = workshop.rows(*said("one", *answers))
    stage.run(Job(tmp_path, tmp_path), model=workshop.model(), data=data, **{"reward.model": reward_model})
    row = json.loads((tmp_path / "rows.jsonl").read_text(encoding="utf-8"))
    scorer = load_scorer(reward_model)
    form = load_format(reward_model, scorer.tokenizer)
    for answer, score in zip(row["answers"], row["scores"], strict=True):
        before, said_ = form.answer((Message("user", "one"),), (Message("assistant", answer[0]["content"]),), ())
        tree = Tree(tuple(before), (Branch(tuple(said_), (True,) * len(said_)),))
        with torch.no_grad():
            assert score == pytest.approx(scorer.rewards(Batch((tree,))).item(), abs=1e-5)
    assert row["scores"] == sorted(row["scores"], reverse=True) and row["scores"][0] > row["scores"][-1]


def test_any_model_may_have_written_the_answers():
    assert stage_class("label").accepts == set(FORMS)
