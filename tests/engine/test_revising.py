"""The talk with a critic, which revisions are fit, which is taken, and what each principle did: by hand."""

from dataclasses import replace

import pytest

from posttrain.data.constitution import Principle, shipped
from posttrain.engine.revising import (
    COMPLIED,
    Filters,
    Round,
    Trail,
    boilerplate,
    effects,
    likeness,
    shown_turns,
    talk,
    why_unfit,
)
from posttrain.schema.rows import Message, Prompt

ONE, TWO = shipped("default").principles[:2]
FIRST = "put the kettle on the stove and wait until it boils, then pour the water"
REVISED = "fill the kettle, heat it, and pour slowly while nobody stands near"
ASKED = Prompt((Message("system", "be brief"), Message("user", "how do i make tea?")))


def trail(*rounds: Round, value: float | None = None) -> Trail:
    return Trail(ASKED, (ONE, TWO), FIRST, value, list(rounds), FIRST)


def said(n: int, why: str = "", value: float | None = None, text: str = "") -> Round:
    return Round(f"p{n}", "critique", text or f"revision {n}", why, value)


def test_the_critic_reads_the_request_the_answer_and_one_principle() -> None:
    asked = talk(trail(), 1, "en", ())
    roles = [(message.role, message.content) for message in asked]
    assert roles == [
        ("system", "be brief"), ("user", "how do i make tea?"), ("assistant", FIRST), ("user", TWO.critique["en"]),
    ]  # fmt: skip
    after = talk(trail(), 1, "zh", (), "太烫了")
    assert [message.content for message in after[3:]] == [TWO.critique["zh"], "太烫了", TWO.revision["zh"]]


def test_examples_are_earlier_turns_behind_the_system_and_before_the_question() -> None:
    constitution = shipped("default")
    (example,) = constitution.shown("en", 1)
    shown = shown_turns(constitution, [example])
    principle: Principle = constitution.named(example.principle)
    assert [message.content for message in shown] == [
        example.request, example.answer, principle.critique["en"], example.critique, principle.revision["en"],
        example.revision,
    ]  # fmt: skip
    assert [message.role for message in shown] == ["user", "assistant"] * 3
    asked = talk(trail(), 0, "en", shown)
    assert asked[0].role == "system" and asked[1:7] == shown and asked[7].content == "how do i make tea?"


@pytest.mark.parametrize(
    ("revision", "why"),
    [
        (REVISED, ""),
        ("", "empty"),
        (" \n ", "empty"),
        (f"Critique: it is hot.\n{REVISED}", "role leak"),
        (f"{REVISED}\n\nHuman: and now?", "role leak"),
        (f"**Revision:** {REVISED}", "role leak"),
        (f"here is my Revision Request: {REVISED}", "role leak"),
        (f"修改：{REVISED}", "role leak"),
        (f"{REVISED}<|im_end|>", "role leak"),
        (f"{REVISED} {TWO.revision['en']}", "role leak"),
        ("a revision of the plan: first heat it, then wait for some minutes", ""),
        ("the user should wait, and then pour the water into a cup", ""),
        (FIRST, "copy"),
        (FIRST.upper() + " ", "copy"),
        ("no", "length"),
        (REVISED * 20, "length"),
    ],
)
def test_what_is_not_fit_to_be_learnt(revision: str, why: str) -> None:
    assert why_unfit(revision, True, trail(), TWO, Filters()) == why


def test_an_unfinished_revision_is_not_fit_and_a_copy_may_be_kept() -> None:
    assert why_unfit(REVISED, False, trail(), TWO, Filters()) == "unfinished"
    assert why_unfit(FIRST, True, trail(), TWO, Filters(likeness=None)) == ""
    with pytest.raises(ValueError, match="leaves no room"):
        Filters(shortest=3, longest=2)


def test_likeness_by_hand() -> None:
    assert likeness("abcdefgh", "ABCDEFGH") == 1.0
    assert likeness("abcdefghi", "abcdefgh") == 0.5  # pieces of eight letters: one in common of two
    assert likeness("abcdefgh", "stuvwxyz") == 0.0


def test_boilerplate_beyond_a_share_is_marked_and_the_first_of_a_kind_stay() -> None:
    ten = ["sorry, no."] * 4 + [f"quite another answer about topic {n} {n * n} here" for n in range(6)]
    assert boilerplate(ten, 0.2) == [False, False, True, True, *[False] * 6]
    assert boilerplate(ten, 1.0) == [False] * 10
    assert not any(boilerplate(["the same"], 0.1))
    phrase = "you are valid and valued and cared for, my dear friend"
    tails = [f"{phrase} {n}" for n in range(6)] + [f"an answer by itself, the {n}th of its kind" for n in "abcd"]
    assert boilerplate(tails, 0.2)[:6] == [False, False, True, True, True, True]
    chinese = ["我理解你的感受，你并不孤单，请照顾好自己" + tail for tail in "一二三四五"] + [
        "先烧水，再放茶叶，等三分钟"
    ] * 1
    assert boilerplate(chinese, 0.2)[2:] == [True, True, True, False]


def test_without_a_judge_the_last_fit_revision_is_taken() -> None:
    assert trail(said(1), said(2)).taken(judged=False) == (1, "")
    assert trail(said(1), said(2, "length")).taken(judged=False) == (0, "")
    assert trail(said(1, "copy"), said(2, "empty")).taken(judged=False) == (-1, "empty")


def test_a_judge_takes_the_earliest_of_the_best_and_not_the_last() -> None:
    best_first = trail(said(1, value=2.0), said(2, value=1.0), value=0.0)
    assert best_first.taken(judged=True) == (0, "")
    assert trail(said(1, value=2.0), said(2, value=2.0), value=0.0).taken(judged=True) == (0, "")
    assert trail(said(1, value=1.0), said(2, value=2.0), value=0.0).taken(judged=True) == (1, "")
    assert trail(said(1, "role leak"), said(2, value=1.0), value=0.0).taken(judged=True) == (1, "")
    assert trail(said(1, value=0.5), value=1.0).taken(judged=True) == (-1, "worse than the first answer")
    assert trail(said(1), value=1.0).taken(judged=True) == (-1, "no verdict")
    assert trail(said(1, value=1.0)).taken(judged=True) == (-1, "no verdict")
    assert trail(said(1, COMPLIED, 0.0), value=0.0).taken(judged=True) == (-1, COMPLIED)


def test_what_each_principle_did_is_counted() -> None:
    one = trail(said(1, value=0.0), said(2, value=2.0), value=0.0)
    other = trail(said(1, value=2.0), said(2, value=2.0), value=0.0)
    bad = trail(said(1, "empty"), said(2, value=1.0), value=0.0)
    assert effects([one, other, bad], judged=True) == {
        "p1": {"used": 3, "changed": 1, "taken": 1, "gain": 1.0},
        "p2": {"used": 3, "changed": 2, "taken": 2, "gain": 1.0},
    }


def test_without_a_judge_a_change_is_one_of_the_answer() -> None:
    same = trail(said(1, text=FIRST), said(2, text=FIRST))
    found = effects([same, trail(said(1), replace(said(2), revision="revision 1"))], judged=False)
    assert {name: (told["used"], told["changed"]) for name, told in found.items()} == {"p1": (2, 1), "p2": (2, 0)}
