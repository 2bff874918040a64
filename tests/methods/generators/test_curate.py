"""What is kept of attempts, what is put beside them, and how rows are written."""

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.read import read
from posttrain.engine.files import write_rows
from posttrain.functional.encodings import CODES
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Labelled, Pair

TWINS = {"twins": [{"prompt": "paint it", "answer": "with a brush"}]}


def attempt(asked: str, said: str, verdict: str = "complied", **columns: Any) -> dict[str, Any]:
    """A row as `red_team` writes it."""
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    goal = columns.pop("goal", asked)
    return {
        "messages": messages,
        "verdict": verdict,
        "attack": "direct",
        "goal": goal,
        "goal_id": goal,
        "n": 0,
        "answer": "no.",
        **columns,
    }


def rows_of(made: Any, name: str = "rows") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made.path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def curate(workshop: Any, rows: list[dict[str, Any]], beside: dict[str, Any] | None = None, **options: Any) -> Any:
    """`beside` are the rows of further inputs, by name."""
    inputs = {name: workshop.rows(*more) for name, more in (beside or {}).items()}
    given = dict.fromkeys(inputs, "given")
    return workshop.run("curate", workshop.model(), workshop.rows(*rows), inputs=inputs, **given, **options)


def spoken(row: dict[str, Any]) -> list[str]:
    return [message["content"] for message in row["messages"]]


def test_what_got_through_is_learnt_with_the_answer_that_it_should_have_got(workshop):
    made = curate(workshop, [attempt("a b c d", "yes"), attempt("e f g h", "no", "refused")])
    assert [spoken(row) for row in rows_of(made)] == [["a b c d", "no."]]
    assert rows_of(made)[0] | {"messages": 0} == {
        "messages": 0, "task": "attack", "attack": "direct", "goal_id": "a b c d", "source": "red_team",
    }  # fmt: skip
    everything = curate(workshop, [attempt("a b c d", "yes"), attempt("e f g h", "no", "refused")], keep="all")
    assert len(rows_of(everything)) == 2
    assert isinstance(read(made, Conversation).rows[0], Conversation)


def test_one_text_or_the_answers_of_a_stage_stand_in(workshop):
    rows = [attempt("a b c d", "yes", answer=None), attempt("say: e f g h", "yes", goal="e f g h", answer=None)]
    assert {spoken(row)[1] for row in rows_of(curate(workshop, rows, refusal="never"))} == {"never"}
    revised = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": f"about {q}"}]}
        for q in ("a b c d", "e f g h")
    ]
    assert [spoken(row)[1] for row in rows_of(curate(workshop, rows, {"answers": revised}))] == [
        "about a b c d",
        "about e f g h",
    ]
    with pytest.raises(
        DataError, match=r"2 attempts have nothing that they should have been answered. Give `refusal: TEXT`"
    ):
        curate(workshop, rows)


def test_the_worst_come_first_and_caps_hold(workshop):
    rows = [
        attempt(f"{goal} way {n} to ask {goal}", "yes", goal=goal, n=n) for goal in ("abcd", "wxyz") for n in range(3)
    ]
    assert [spoken(row)[0][:10] for row in rows_of(curate(workshop, rows, per_goal=1, alike="exact"))] == [
        "abcd way 0",
        "wxyz way 0",
    ]
    capped = curate(workshop, rows, per_attack=2, alike="exact")
    assert capped.facts["kept"] == {"direct": 2} and capped.facts["left_out"]["the cap of its attack"] == 4
    severe = [attempt("mild one here", "yes", severity=1), attempt("severe one there", "yes", severity=9)]
    assert [spoken(row)[0] for row in rows_of(curate(workshop, severe))] == ["severe one there", "mild one here"]
    held = attempt("held at once here", "no", "refused", severity=99)
    assert spoken(rows_of(curate(workshop, [held, *severe], keep="all"))[-1])[0] == "held at once here"


@pytest.mark.parametrize(("alike", "n"), [("exact", 3), ("near", 2), ("meaning", 2)])
def test_what_says_the_same_is_kept_once(workshop, alike: str, n: int):
    one = "tell me how the long road to the far away town is best walked by night"
    rows = [
        attempt(one, "yes"),
        attempt(one.upper(), "yes"),
        attempt("0 1 2 3 4 5 6 7 8 9", "yes"),
        attempt(one, "yes"),
    ]
    if alike == "meaning":  # the tiny tokenizer knows letters in one case only
        rows[1] = attempt(one, "yes")
    made = curate(workshop, rows, alike=alike)
    assert len(rows_of(made)) == n and made.facts["left_out"]["alike to another"] == 4 - n


def test_each_attack_has_a_harmless_twin(workshop):
    rows = [attempt("pretend. open it", "yes", goal="open it"), attempt("something else", "yes", goal="close it")]
    made = curate(workshop, rows, TWINS)
    assert [(row["task"], *spoken(row)) for row in rows_of(made)] == [
        ("attack", "pretend. open it", "no."),
        ("attack", "something else", "no."),
        ("twin", "pretend. paint it", "with a brush"),
    ]
    assert made.facts["without_twin"] == 1


@pytest.mark.parametrize("code", [code.write for code in CODES.values()], ids=list(CODES))
def test_a_request_in_a_code_has_its_twin_in_the_code(workshop, code):
    made = curate(workshop, [attempt(f"decode: {code('open it')}", "yes", goal="open it")], TWINS)
    assert spoken(rows_of(made)[1]) == [f"decode: {code('paint it')}", "with a brush"]


def test_halves_of_characters_are_written_as_question_marks(workshop, tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"text": "a\ud800b", "n": Path("x")}, {"text": "ü"}])
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        {"text": "a?b", "n": "x"},
        {"text": "ü"},
    ]


def test_recovery_begins_as_the_model_did_and_turns(workshop):
    made = curate(workshop, [attempt("a b c d", "sure take the red one")], recovery=1, recovery_words=3)
    _, turned = rows_of(made)
    said = turned["messages"][1]
    words = said["given"].split()
    assert 1 <= len(words) <= 3 and "sure take the red one".startswith(said["given"])
    assert said["content"] == f"{said['given']} no."
    assert read(made, Conversation).rows[1].messages[1].given == said["given"]


def test_pairs_and_unpaired_rows_hold_what_should_not_be_said(workshop):
    rows = [attempt("open it", "yes")]
    pairs = read(curate(workshop, rows, TWINS, shape="pairs"), Pair).rows
    assert [(p.chosen[0].content, p.rejected[0].content) for p in pairs] == [("no.", "yes"), ("with a brush", "no.")]
    thumbs = read(curate(workshop, rows, shape="unpaired"), Labelled).rows
    assert [(row.completion[0].content, row.good) for row in thumbs] == [("no.", True), ("yes", False)]


def test_what_is_unclear_goes_to_a_human_and_comes_back(workshop):
    made = curate(workshop, [attempt("a b c d", "yes"), attempt("e f g h", "hm", "unclear")])
    (row,) = rows_of(made, "review")
    assert spoken(row) == ["e f g h", "hm"] and row["verdict"] == "unclear"
    again = curate(workshop, [{**row, "verdict": "complied"}])
    assert spoken(rows_of(again)[0]) == ["e f g h", "no."]


def test_nothing_to_learn_from_is_said_with_its_cure(workshop):
    with pytest.raises(DataError, match=r"None of 1 attempts is left to learn from.*`keep: all`"):
        curate(workshop, [attempt("a b c d", "no", "refused")])
    with pytest.raises(DataError, match=r"the verdict 'maybe', and an attempt's is complied, refused or unclear"):
        curate(workshop, [attempt("a b c d", "no", "maybe")])


def test_licences_go_along(workshop):
    for name in ("licence", "license"):
        made = curate(workshop, [attempt("a b c d", "yes", **{name: "CC-BY-4.0"})])
        assert rows_of(made)[0][name] == "CC-BY-4.0"


@pytest.mark.parametrize("severity", [float("nan"), "high", None, True, [3]])
@pytest.mark.parametrize("n", ["first", [1], float("inf"), -1])
def test_what_is_no_number_orders_nothing(workshop, severity, n):
    """Rows may come from elsewhere, with columns that only share their names."""
    odd = attempt("a b c d", "yes", severity=severity, n=n)
    made = curate(workshop, [odd, attempt("e f g h", "yes", severity="3"), attempt("i j k l", "yes", severity=2)])
    assert [row["goal_id"] for row in rows_of(made)] == ["e f g h", "i j k l", "a b c d"]
