"""Critiques and revisions as rows: what the critic is asked, what is learnt from it, what is left out and counted."""

import json
from typing import Any

import pytest

from posttrain.data.constitution import shipped
from posttrain.data.read import read
from posttrain.engine.job import Job
from posttrain.engine.method import stage_class
from posttrain.methods.generators import critique_revise
from posttrain.models.endpoint import Reply
from posttrain.models.feedback import Loaded
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Messages, Pair
from posttrain.schema.settings import keyed, problems
from tests.scripted import Scripted

PROMPTS = [{"prompt": f"say {word}", "task": "t", "complied": "x", "label": "news"} for word in ("one", "two", "three")]
SHORT = {"sampling": {"max_new_tokens": 6, "temperature": 1.0}, "filters": {"boilerplate": 1.0, "longest": 100}}


def is_revision(talk: Messages) -> bool:
    return len(talk) == 5


def better(talk: Messages) -> str:
    """Each revision is the answer so far and one more word."""
    return f"{talk[1].content} so more words that say it" if is_revision(talk) else "it could be better"


def rows_of(made: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made.path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """A critic in place of the one that is named."""
    made = Scripted(answers=better)
    monkeypatch.setattr(critique_revise, "load_feedback", lambda settings, model: made)
    return made


def run(workshop, rows=PROMPTS, seed=0, **options):
    options = {**SHORT, "critic": {"model": "named"}, **options}
    inputs = {"critic.model": workshop.model()}
    return workshop.run("critique_revise", workshop.model(), workshop.rows(*rows), seed, inputs, **options)


def words(output: str, row: Any) -> float | None:
    """More words are better, up to ten more; a question mark gets no verdict."""
    return None if "?" in output else float(min(output.count("more"), 1))


def declines(output: str, row: Any) -> float | None:
    """Refused where it says so."""
    return 0.0 if "words" in output else 1.0


def test_every_round_begins_with_the_answer_of_the_one_before(workshop, script):
    made = run(workshop, rounds=3)
    rows = rows_of(made)
    assert [row["messages"][0]["content"] for row in rows] == ["say one", "say two", "say three"]
    for row in rows:
        first = row["first_answer"]
        texts = [f"{first}{' so more words that say it' * n}" for n in (1, 2, 3)]
        assert [each["revision"] for each in row["rounds"]] == texts
        assert row["messages"][1] == {"role": "assistant", "content": texts[2]} and row["round"] == 3
        assert len({each["principle"] for each in row["rounds"]}) == 3
        assert row["principle"] == row["rounds"][2]["principle"]
        assert (row["task"], row["complied"]) == ("t", "x") and "label" not in row
    assert len(script.asked) == 3 * 3 * 2
    assert made.facts["rows"] == 3 and made.facts["taken_in_round"] == {"3": 3}
    used = made.facts["principles"].values()
    assert sum(each["used"] for each in used) == 9 and sum(each["taken"] for each in used) == 3


def test_the_next_stage_learns_from_both_kinds(workshop, script):
    assert workshop.run("sft", workshop.model(), (run(workshop),), steps=1).facts["rows"] == 3
    pairs = run(workshop, keep="pairs")
    assert workshop.run("dpo", workshop.model(), (pairs,), steps=1).facts["rows"] == 3
    for pair, row in zip(read(pairs, Pair).rows, rows_of(pairs), strict=True):
        assert pair.rejected[0].content == row["first_answer"]
        assert pair.chosen[0].content == row["rounds"][1]["revision"]


def test_the_seed_and_the_prompt_decide_and_not_the_place(workshop, script):
    """The same prompt among others gets the same answer and the same principles."""
    one = {row["messages"][0]["content"]: row for row in rows_of(run(workshop))}
    other = {row["messages"][0]["content"]: row for row in rows_of(run(workshop, rows=PROMPTS[::-1]))}
    assert one == other
    again = {row["messages"][0]["content"]: row for row in rows_of(run(workshop, seed=1))}
    assert again != one


def test_the_model_itself_is_the_critic_unless_another_is_named(workshop, monkeypatch):
    asked: list[Any] = []

    def say(self, talks, sampling, seed, numbers, watch):
        asked.append((self.policy, [message.content for message in talks[0]]))
        return [Reply(better(talk)) for talk in talks]

    monkeypatch.setattr(Loaded, "say", say)
    options = {**SHORT, "constitution": "lab", "tags": ["help"], "rounds": 1}
    made = workshop.run("critique_revise", workshop.model(), workshop.rows(*PROMPTS), **options)
    (policy, critique), (same, revision) = asked
    (principle,) = shipped("lab").choose("en", ("help",))
    assert policy is same
    assert critique[-1] == principle.critique["en"] and revision[-1] == principle.revision["en"]
    assert set(made.facts["principles"]) == {"help"}


def test_a_reward_takes_the_earliest_of_the_best(workshop, script):
    rows = rows_of(run(workshop, rounds=3, reward={"functions": [f"{__name__}:words"]}))
    assert {row["round"] for row in rows} == {1}
    for row in rows:
        assert row["values"] == [0.0, 1.0, 1.0, 1.0]
        assert row["messages"][-1]["content"] == row["rounds"][0]["revision"]


def test_what_a_judge_says_complied_is_not_learnt(workshop, script):
    made = run(workshop, rounds=1, judge={"rule": f"{__name__}:declines"})
    assert {tuple(row["values"]) for row in rows_of(made)} == {(0.0, 2.0)}
    assert {each["changed"] for each in made.facts["principles"].values()} == {1} or made.facts["rows"] == 3
    script.answers = lambda talk: f"{talk[1].content} and some further help for it" if is_revision(talk) else "bad"
    with pytest.raises(DataError, match=r"None of 3 answers .*3 left out: judged to comply\. Take more `rounds`"):
        run(workshop, rounds=2, seed=1, judge={"rule": f"{__name__}:declines"})


def test_what_is_left_out_is_counted_by_its_reason(workshop, script):
    said = iter(["", "Critique: no", None])

    def bad(talk: Messages) -> str | None:
        return next(said) if is_revision(talk) else "hm"

    script.answers = bad
    with pytest.raises(DataError, match=r"None of 3 answers have a revision to learn; 1 left out: empty"):
        run(workshop, rounds=1)


def test_a_revision_that_is_no_answer_does_not_begin_the_next_round(workshop, script):
    script.answers = lambda talk: (
        ("Human: what?" if len(script.asked) <= 6 else better(talk)) if is_revision(talk) else "hm"
    )
    rows = rows_of(run(workshop, rounds=2))
    assert {row["round"] for row in rows} == {2}
    for row in rows:
        assert row["rounds"][1]["revision"] == f"{row['first_answer']} so more words that say it"


def test_boilerplate_is_cut_down(workshop, script):
    script.answers = lambda talk: "you are valued and cared for in every way" if is_revision(talk) else "hm"
    filters = {"boilerplate": 0.4, "longest": 100}
    made = run(workshop, rounds=1, filters=filters)
    assert (made.facts["rows"], made.facts["left_out"]) == (1, {"boilerplate": 2})


def test_examples_are_shown_in_the_language_that_is_asked_in(workshop, script):
    run(workshop, rounds=1, examples=1, language="zh")
    first = script.asked[0]
    assert len(first) == 6 + 3 and "邻居" in first[0].content
    assert all(any("一" <= letter <= "鿿" for letter in talk[-1].content) for talk in script.asked)


def test_the_watcher_is_told_of_every_turn_and_of_every_principle(workshop, script, tmp_path):
    told: list[tuple[str, dict[str, Any]]] = []
    job = Job(tmp_path, tmp_path, emit=lambda kind, **fields: told.append((kind, fields)))
    stage = stage_class("critique_revise")(data="given", critic={"model": "named"}, rounds=2, **SHORT)
    inputs = {"data": workshop.rows(*PROMPTS), "critic.model": workshop.model()}
    stage.run(job, model=workshop.model(), **inputs)
    steps = [fields["step"] for kind, fields in told if kind == "progress"]
    assert steps == sorted(steps) and steps[-1] == 3 * 5
    notes = [fields["text"] for kind, fields in told if kind == "note"]
    assert notes[-2].startswith("3 of 3 answers have a revision to learn")
    assert notes[-1].startswith("principles, as often as the answer changed / as often as they were used: ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"constitution": "none.yaml"}, "cannot be read"),
        ({"constitution": {"principles": []}}, "there are no principles"),
        ({"language": "de"}, "not written in 'de'"),
        ({"tags": ["nothing"]}, "has the tag 'nothing'"),
        ({"examples": 50}, "Show fewer"),
        ({"rounds": 5}, "less than or equal to 4"),
        ({"judge": {"rule": "complied"}, "reward": {"functions": ["exact"]}}, "leave `judge` or `reward` out"),
    ],
)
def test_mistakes_are_found_before_anything_is_run(options, says):
    found = problems(stage_class("critique_revise"), {"data": "x.jsonl", **options})
    assert len(found) == 1 and says in found[0][1].message


def test_another_text_of_the_constitution_is_another_key(tmp_path):
    """What a file says belongs to the key, not what it is called."""
    text = "principles:\n- {id: a, critique: what is wrong, revision: mend it now, comparison: which is better}\n"
    keys = []
    for name, said in (("one", text), ("other", text), ("third", text.replace("mend it now", "mend all of it"))):
        (tmp_path / name).write_text(said)
        stage = stage_class("critique_revise")(data="x", constitution=str(tmp_path / name))
        assert stage_class("critique_revise").model_validate(stage.model_dump(mode="json")) == stage
        keys.append(keyed(stage))
    assert keys[0] == keys[1] != keys[2]


def test_rows_are_conversations(workshop, script):
    assert all(row.messages[-1].role == "assistant" for row in read(run(workshop), Conversation).rows)
