"""AI feedback as pairs: how likely the chosen answer is better, what is left out, and what learns from it."""

import json
from typing import Any

import pytest

from posttrain.data.read import read
from posttrain.engine.method import stage_class
from posttrain.methods.generators import label_preferences
from posttrain.models.feedback import Loaded
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Messages, Pair
from posttrain.schema.settings import problems
from tests.methods.generators.test_label import said
from tests.scripted import Scripted


def kindness(talk: Messages) -> float:
    """A is likely where the kinder answer stands there; and A is liked as such."""
    a, b = (part.partition("reply")[0] for part in talk[0].content.partition("answer (A):")[2].split("answer (B):"))
    value = {"kind": 0.3, "nice": 0.1}
    of = [next((v for word, v in value.items() if word in part), 0.0) for part in (a, b)]
    return 0.5 + of[0] - of[1] + 0.1


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    made = Scripted(letters=kindness)
    monkeypatch.setattr(label_preferences, "load_feedback", lambda settings, model: made)
    return made


ROWS = [*said("one", "rude", "kind"), *said("two", "nice", "kind"), *said("three", "nice", "rude")]


def run(workshop, rows=ROWS, seed=0, **options):
    options = {"feedback": {"model": "named"}, **options}
    inputs = {"feedback.model": workshop.model()}
    return workshop.run("label_preferences", workshop.model(), workshop.rows(*rows), seed, inputs, **options)


def rows_of(made: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made.path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_better_answer_is_chosen_with_its_probability(workshop, script):
    made = run(workshop)
    found = [(r.prompt[0].content, r.chosen[0].content, r.rejected[0].content) for r in read(made, Pair).rows]
    assert found == [("one", "kind", "rude"), ("two", "kind", "nice"), ("three", "nice", "rude")]
    assert [row.probability for row in read(made, Pair).rows] == pytest.approx([0.8, 0.7, 0.6])
    assert made.facts["probability"] == pytest.approx(0.7)
    assert made.facts["letter_a"] == pytest.approx(0.6)  # the liking for A, which the two orders take away
    assert made.facts["orders_disagree"] == 0.0
    assert len(script.asked) == 3 * 4 * 2
    for told in made.facts["principles"].values():
        assert told["agreed"] == 1.0 and 0.09 < told["certainty"] < 0.31


def test_every_reading_is_kept_in_the_row(workshop, script):
    (row, *_) = rows_of(run(workshop, principles=2))
    assert len({each["principle"] for each in row["readings"]}) == 2
    for each in row["readings"]:
        chosen_first = row["first_is"] == "chosen"
        assert (each["first_as_a"] + each["first_as_b"]) / 2 == pytest.approx(0.8 if chosen_first else 0.2)


def test_what_is_not_sure_is_left_out_and_counted(workshop, script):
    rows = [*ROWS, *said("same", "a", "a"), *said("alone", "a"), *said("silent", "kind", "mute")]
    script.letters = lambda talk: None if "mute" in talk[0].content else kindness(talk)
    made = run(workshop, rows=rows, undecided=0.15)
    assert made.facts["left_out"] == {"not sure": 1, "the same answers": 1, "no other answer": 1, "no reply": 1}
    assert (made.facts["rows"], made.facts["prompts"], made.facts["pairs"]) == (2, 6, 4)


def test_an_even_preference_is_none_however_little_is_asked_for(workshop, script):
    script.letters = lambda talk: 0.5
    with pytest.raises(DataError, match=r"None of 3 pairs have a preference; 3 left out: not sure\. Lower `undecided`"):
        run(workshop, undecided=0)


def test_after_reasons_probabilities_are_clamped(workshop, script):
    script.letters = lambda talk: float(kindness(talk) > 0.6)
    made = run(workshop, reason={"temperature": 1.0, "max_new_tokens": 9})
    assert {row["probability"] for row in rows_of(made)} == {0.6}
    wider = run(workshop, reason={"temperature": 1.0, "max_new_tokens": 9}, clamp=[0.1, 0.9])
    assert {row["probability"] for row in rows_of(wider)} == {0.9}


def test_as_many_pairs_as_wished_of_all_that_there_are(workshop, script):
    rows = said("one", "rude", "kind", "nice", "kind")
    assert len(rows_of(run(workshop, rows=rows, pairs=9))) == 3
    assert len(rows_of(run(workshop, rows=rows))) == 1


def test_the_seed_and_the_prompt_decide_and_not_the_place(workshop, script):
    one = {row["prompt"][0]["content"]: row for row in rows_of(run(workshop))}
    other = run(workshop, rows=[*ROWS[4:], *ROWS[:4]])
    assert one == {row["prompt"][0]["content"]: row for row in rows_of(other)}


def test_soft_labels_teach_dpo_and_a_reward_model(workshop, script):
    made = run(workshop)
    assert workshop.run("dpo", workshop.model(), (made,), steps=1).facts["rows"] == 3
    assert workshop.run("reward", workshop.model(), (made,), steps=1).facts["rows"] == 3


def test_the_stages_own_model_gives_feedback_unless_another_is_named(workshop, monkeypatch):
    asked: list[int] = []

    def letters(self: Loaded, talks: Any, watch: Any) -> list[float]:
        asked.append(len(talks))
        return [kindness(talk) for talk in talks]

    monkeypatch.setattr(Loaded, "first_letter", letters)
    made = workshop.run("label_preferences", workshop.model(), workshop.rows(*ROWS), principles=1)
    assert asked == [6] and made.facts["rows"] == 3


def test_a_loaded_model_labels_without_a_script(workshop):
    """The tiny model's own letters; whatever it prefers, every pair is kept or counted."""
    made = workshop.run("label_preferences", workshop.model(), workshop.rows(*ROWS), undecided=0.0, constitution="lab")
    assert made.facts["rows"] == 3
    assert all(0.5 < row["probability"] < 1 for row in rows_of(made))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clamp": [0.6, 0.4]}, "is no range of probabilities"),
        ({"clamp": [0.3, 0.7]}, "`clamp` holds after reasons only"),
        ({"reason": {"temperature": 1}, "undecided": 0.1}, "lower `undecided`"),
        ({"tags": ["nothing"]}, "has the tag 'nothing'"),
        ({"feedback": {}}, "one feedback model is needed"),
    ],
)
def test_mistakes_are_found_before_anything_is_run(options, says):
    found = problems(stage_class("label_preferences"), {"data": "x.jsonl", **options})
    assert len(found) == 1 and says in found[0][1].message
