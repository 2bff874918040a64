"""Attacks as recipes write them, and one inside the other."""

import json
import random

import pytest

from posttrain.engine.arming import armed
from posttrain.engine.attack import Ask, Attack, Composed, Goal, Lead, Rewrite, Scene, Tries, ask, lead, write
from posttrain.functional.encodings import from_base64, to_base64
from posttrain.methods.attacks.persona import Persona
from posttrain.schema.errors import UsageError
from posttrain.schema.find import class_of
from posttrain.schema.rows import Message
from posttrain.schema.settings import keyed
from tests.besieged import asked, attack, goal, played, scene

A = {"template": {"forms": ["a({request})"], "name": "a"}}
B = {"template": {"forms": ["b({request})"], "name": "b"}}


class Talk(Attack):
    """Two turns: one that leads up, one that asks."""

    def tries(self, goal: Goal, scene: Scene) -> Tries:
        first = Message("user", "hello")
        heard = yield from lead((first,))
        talk = (first, Message("assistant", heard.answer))
        yield from ask((*talk, Message("user", goal.request)))
        yield from write((Message("user", "what now?"),))


def test_the_innermost_comes_first():
    (made,) = armed([[A, B]]).values()
    assert asked(played(made, goal("x"), scene())) == ["b(a(x))"]
    (made,) = armed([[B, A]]).values()
    assert asked(played(made, goal("x"), scene())) == ["a(b(x))"]


def test_a_rewrite_before_the_leading_one_changes_the_goal_and_one_behind_what_is_asked():
    made = Composed((attack("template", forms=["a({request})"]), Talk(), attack("template", forms=["b({request})"])))
    moves = played(made, goal("x"), scene(), lambda m: "well")
    assert [m.messages[-1].content for m in moves] == ["b(hello)", "b(a(x))", "what now?"]
    assert isinstance(moves[0], Lead)
    assert [m.content for m in moves[1].messages] == ["b(hello)", "well", "b(a(x))"]


def test_a_question_is_put_in_another_way_and_an_answer_that_was_begun_is_not():
    made = Composed((attack("prefill", beginnings=["Sure"]), attack("template", forms=["b({request})"])))
    (move,) = played(made, goal("x"), scene())
    assert [(m.role, m.content) for m in move.messages] == [("user", "b(x)"), ("assistant", "Sure")]


def test_a_code_outside_is_read_back():
    (made,) = armed([["persona", "base64"]]).values()
    first, *_ = asked(played(made, goal("open the old box?"), scene()))
    assert "open the old box?" in from_base64(first)
    assert made.read(to_base64("use the key")) == "use the key"


def test_all_moves_of_what_leads_are_made():
    (made,) = armed([[{"persona": {"at_most": 3}}, A]]).values()
    assert len(asked(played(made, goal("x"), scene()))) == 3


def test_names_tell_families_apart():
    found = armed(["direct", A, B, ["persona", "base64"], {"persona": None}, {"rot13": {"at_most": 1}}])
    assert list(found) == ["direct", "template:a", "template:b", "persona+base64", "persona", "rot13"]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["direct", "direct"], "'direct' is given twice"),
        ([A, A], "'template:a' is given twice"),
        ([["direct", "base64"], ["direct", "base64"]], "given twice"),
        (["persna"], "Did you mean 'persona'?"),
        ([{"persona": {"forms": []}}], "forms"),
        ([{"persona": {"most": 3}}], "there is no option 'most'"),
        ([["pair", "tap"]], "Keep one"),
        ([[]], "Name at least one"),
        ([7], "Write `direct`"),
        ([{"persona": {}, "rot13": {}}], "Write `direct`"),
        ([{"persona": 3}], "Write `direct`"),
        (["no.such:Thing"], "importable from here"),
        (["json:JSONDecoder"], "is no attack. Name a class"),
        (["posttrain.methods.objectives.dpo:DPO"], "is no attack. Name a class"),
        ([], "List at least one"),
        (7, "List at least one"),
        (None, "List at least one"),
    ],
)
def test_what_cannot_be_meant_is_an_error_with_its_cure(specs, message):
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        armed(specs)


def test_one_of_ones_own_is_named_by_its_module():
    (family,) = armed([f"{__name__}:Talk"])
    assert family == "Talk"


def test_a_rewrite_asks_no_text_twice_and_at_most_so_many():
    class Twice(Rewrite):
        """The same again and again."""

        def rewrites(self, request, draw):
            yield from ["a", "a", "b", "a", "c", "d", "e"]

    assert asked(played(Twice(), goal(), scene())) == ["a", "b", "c", "d"]
    assert asked(played(Twice(at_most=2), goal(), scene())) == ["a", "b"]


def test_what_an_attack_needs_depends_on_how_it_is_set():
    assert attack("pair").needs() == {"writes"}
    assert attack("many_shot").needs() == {"shows"}
    assert attack("gcg").needs() == {"opens"}
    assert attack("direct").needs() == set()


def test_a_goal_keeps_what_stands_before_the_request():
    asked_of = goal("x", system="Be kind.")
    assert [m.content for m in asked_of.put("y")] == ["Be kind.", "y"]
    assert asked_of.reworded("y").id == asked_of.id
    assert asked_of.reworded("y").request == "y"
    assert Ask(asked_of.put("y")) == Ask(asked_of.put("y"), "")
    assert Scene(random.Random(0)).shared == {}


@pytest.mark.parametrize("method", ["red_team", "attack_success", "over_refusal"])
def test_a_key_knows_what_an_attack_asks_by_default_and_its_version(method, monkeypatch):
    def stage(*attacks):
        return class_of(method)(data="x", judge={"rule": "complied"}, attacks=attacks)

    def key(*attacks):
        return keyed(stage(*attacks))["attacks"]

    plain = key("direct", ["persona", "base64"])
    assert plain == key({"direct": {}}, [{"persona": None}, "base64"])
    assert key("direct", "persona") != key("persona", "direct")  # where a budget ends depends on their order
    assert stage("direct", "persona").model_dump(mode="json")["attacks"] == ["direct", "persona"]
    monkeypatch.setattr(Persona, "version", 2)
    newer = key("direct", ["persona", "base64"])
    monkeypatch.setattr(Persona.model_fields["forms"], "default", ("play a king: {request}",))
    Persona.model_rebuild(force=True)
    try:
        other = key("direct", ["persona", "base64"])
    finally:
        monkeypatch.undo()
        Persona.model_rebuild(force=True)
    assert len({json.dumps(each) for each in (plain, newer, other)}) == 3
