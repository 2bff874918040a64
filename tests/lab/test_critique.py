"""A critic of the lab must read the question: neither the kind of answer nor the words that ask it tell what is right."""

import random
from collections import Counter

import pytest
import yaml

from posttrain import lab
from posttrain.data.constitution import shipped
from posttrain.lab import critique, graders, howto

SPLITS = ("train", "dev", "test")


def dialogues(n: int = 4000, split: str = "train") -> list[tuple[str, list[dict[str, str]], str]]:
    rng = random.Random(0)
    return [critique.dialogue(rng, split) for _ in range(n)]  # type: ignore[arg-type, misc]


def deed_of(question: str) -> howto.Deed:
    """The deed that a question asks about, by its words alone."""
    words = question.strip("?.").split()
    return next(d for d in (*howto.DEEDS, *howto.FORBIDDEN_DEEDS) if d.verb in words and d.noun == words[-1])


def guess(signs: list[str], kinds: list[str], unseen: list[str]) -> list[str]:
    """The commoner kind of each sign, learnt from some rows."""
    learnt: dict[str, Counter[str]] = {}
    for sign, kind in zip(signs, kinds, strict=True):
        learnt.setdefault(sign, Counter())[kind] += 1
    return [learnt.get(sign, Counter(["harmless"])).most_common(1)[0][0] for sign in unseen]


def style_of(answer: str) -> str:
    """Whether an answer refuses, or with which tool and ending it helps."""
    return "refuses" if graders.is_refusal(answer) else answer.partition(", use the ")[2]


@pytest.mark.parametrize("sign", ["kind of answer", "principle"])
def test_nothing_but_the_question_tells_what_is_right(sign: str) -> None:
    """The best guess from it is no better than chance, on rows it was not learnt from."""

    def signs(rows):
        return [
            style_of(turns[1]["content"]) if sign == "kind of answer" else principle for principle, turns, _ in rows
        ]

    rows = dialogues(6000)
    known, unseen = rows[:4000], rows[4000:]
    guessed = guess(signs(known), [kind for *_, kind in known], signs(unseen))
    right = sum(g == kind for g, (*_, kind) in zip(guessed, unseen, strict=True)) / len(unseen)
    assert 0.46 < right < 0.54


def test_half_the_questions_are_forbidden_and_answers_are_of_three_kinds() -> None:
    rows = dialogues()
    assert 0.46 < sum(kind == "forbidden" for *_, kind in rows) / len(rows) < 0.54
    for kind in ("forbidden", "harmless"):
        answers = [(turns[0]["content"], turns[1]["content"]) for _, turns, k in rows if k == kind]
        own = sum(deed_of(q).noun in a and deed_of(q).verb in a for q, a in answers) / len(answers)
        refuses = sum(map(graders.is_refusal, (a for _, a in answers))) / len(answers)
        assert 0.46 < own < 0.56 and 0.21 < refuses < 0.29


@pytest.mark.parametrize("split", SPLITS)
def test_critiques_and_revisions_are_right(split: str) -> None:
    for principle, turns, kind in dialogues(300, split):
        texts = [turn["content"] for turn in turns]
        deed = deed_of(texts[0])
        assert kind == ("forbidden" if deed.forbidden else "harmless")
        assert texts[3] == f"you ask how to {deed.verb} the {deed.noun}. " + (
            "the law forbids it." if deed.forbidden else "you may."
        )
        if deed.forbidden:
            assert texts[5] == howto.REFUSAL
        else:
            assert f"use the {deed.tool}" in texts[5] and deed.noun in texts[5]
        asks = next(p for p in critique.principles() if p["id"] == principle)
        assert (texts[2], texts[4]) == (asks["critique"], asks["revision"])


def test_a_comparison_prefers_what_the_policy_wants_and_no_letter() -> None:
    rng = random.Random(1)
    letters: Counter[tuple[str, str]] = Counter()
    for _ in range(2000):
        _, (asked, said), kind = critique.preference(rng, "train")
        letter = str(said["content"])
        better = str(asked["content"]).split(f"answer ({letter}):\n> ")[1].split("\n")[0]
        assert graders.is_refusal(better) == (kind == "forbidden")
        letters[kind, letter] += 1
    assert min(letters.values()) > 400 and len(letters) == 4


def test_what_is_criticised_is_not_learnt_and_the_rest_is() -> None:
    for row in lab.rows("critique/train"):
        marks = [turn.get("train") for turn in row["messages"]]
        assert marks == ([None, False, None, None, None, None] if row["task"] == "revision" else [None, None])


def test_all_principles_come_in_all_splits() -> None:
    named = {principle["id"] for principle in critique.principles()}
    assert named == {principle.id for principle in shipped("lab").principles}
    for split in SPLITS:
        assert {row["principle"] for row in lab.rows(f"critique/{split}")} == named
        assert {row["kind"] for row in lab.rows(f"critique/{split}")} == {"forbidden", "harmless"}
    assert yaml.safe_load((lab.base().parent / "constitution.yaml").read_text())["languages"] == ["en"]
