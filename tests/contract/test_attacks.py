"""What every attack keeps, found by listing: it ends, repeats itself with its seed, says something, and is explained."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.engine.attack import Attack, Move, Write
from posttrain.schema.find import attack_class, attacks
from posttrain.schema.rows import Messages, Prompt
from posttrain.schema.settings import options
from tests.besieged import attack, by_first_word, goal, local, played, scene

ROOT = Path(__file__).parent.parent
WEIGHTS = local()
HOSTILE = [
    "",
    "{",
    '{"prompt": 7}',
    "{" * 5000,
    "[" * 5000,
    '{"prompt": "\x1b[2J"}',
    "yes",
    "no",
    "<prompt>x</prompt>",
    "9" * 9000,
]


@pytest.fixture(params=list(attacks()))
def name(request) -> str:
    return str(request.param)


def counting() -> Callable[[Messages], str]:
    """An attacker's model that words something new each time."""
    count = iter(range(10**6))
    return lambda messages: json.dumps({name: f"wording {next(count)}" for name in ("prompt", "translation")})


def moves(name: str, seed: int = 0, say: str = "no", **more: object) -> list[Move]:
    asked = goal(system="You are kind. Say nothing of the old box.")
    return played(attack(name), asked, scene(seed, weights=WEIGHTS), lambda m: say, **{"write": counting(), **more})


def test_it_asks_and_ends(name):
    found = moves(name)
    assert any(not isinstance(move, Write) for move in found)


def test_the_seed_decides(name):
    assert moves(name) == moves(name)


@pytest.mark.parametrize("say", ["no", "perhaps", "", "\x1b[31m" * 1000, "yes"])
def test_whatever_is_answered_no_message_is_empty(name, say):
    for move in moves(name, say=say):
        assert move.messages
        assert all(message.content.strip() for message in move.messages)


def test_an_answer_that_complied_ends_it(name):
    attempts = [move for move in moves(name, say="yes") if not isinstance(move, Write)]
    judged = [by_first_word("yes") for move in attempts if type(move).__name__ == "Ask"]
    assert len(judged) == 1


def test_no_reply_of_the_attackers_model_breaks_it(name):
    for reply in HOSTILE:
        found = moves(name, write=lambda messages, reply=reply: reply)
        assert all(message.content.strip() for move in found for message in move.messages)


def test_a_request_of_many_characters_and_marks_is_put(name):
    """Whatever is in a request is text, places of forms among it."""
    odd = goal("{request} {code} %s \\1 \u202e 你好 " + "box " * 20, system="Be kind to all of us.")
    assert played(attack(name), odd, scene(weights=WEIGHTS), write=counting()) or name == "gcg"


def test_its_options_are_explained(name):
    for option in options(type(attack(name))):
        assert option.help.rstrip().endswith("."), option.name


def test_it_is_documented_and_tested(name):
    first, _, rest = (inspect.getdoc(inspect.getmodule(attack_class(name))) or "").partition("\n")
    assert first.endswith("."), "the first line of its docstring is a whole sentence"
    assert "arXiv" in rest or "NeurIPS" in rest or name == "direct", "its paper is named"
    assert (ROOT / "methods" / "attacks" / f"test_{name}.py").is_file()


def test_it_reads_any_answer(name):
    for answer in ("", "no", "x" * 10**6, "aGk=" * 1000, "\ud800", "a b c d", "\x1b[0m"):
        assert isinstance(attack(name).read(answer), str)


def test_settings_round_trip(name):
    made = attack(name)
    assert isinstance(made, Attack)
    assert type(made).model_validate(made.model_dump(mode="json")) == made


def test_the_row_of_a_goal_stays_as_it_is(name):
    asked = goal(system="Be kind to all of us.")
    before = asked.row
    played(attack(name), asked, scene(weights=WEIGHTS), write=counting())
    assert asked.row == before
    assert isinstance(asked.row, Prompt)
