"""Escalation: turn by turn, refused turns are taken back, and the request itself is asked in the end."""

import json

from posttrain.engine.attack import Lead, Write
from tests.besieged import asked, attack, goal, played, scene

STEPS = [["about boxes?", "of boxes?"], ["which tools?"], ["now: {request}", "again: {request}"]]


def roles(move) -> list[str]:
    return [message.content for message in move.messages]


def test_turns_that_lead_up_are_no_attempts():
    moves = played(attack("escalation", steps=STEPS), goal("open it"), scene(), lambda m: f"well {len(m)}")
    assert [isinstance(move, Lead) for move in moves] == [True, True, False, False]
    assert roles(moves[-1])[1::2] == ["well 1", "well 3"]
    assert asked(moves)[-1] in ("now: open it", "again: open it")


def test_a_refused_turn_is_taken_back():
    def say(messages):
        return "no" if messages[-1].content in ("about boxes?", "which tools?") else "well"

    for seed in range(4):
        moves = played(attack("escalation", steps=STEPS), goal("open it"), scene(seed), say)
        for move in moves:
            assert "no" not in roles(move)
            assert not {"about boxes?", "which tools?"} & set(roles(move)[:-1])
        assert roles(moves[-1])[:2] == ["of boxes?", "well"]


def test_it_gives_up_after_so_many_refusals_but_asks_before():
    moves = played(attack("escalation", steps=STEPS, backtracks=1), goal("open it"), scene())
    assert [isinstance(move, Lead) for move in moves] == [True, True, False]


def test_a_model_that_gives_in_after_a_talk_is_found():
    """It refuses the bare request, and complies once two turns were answered."""

    def say(messages):
        return "yes" if len(messages) >= 5 else "no" if "open" in messages[-1].content else "well"

    assert played(attack("direct"), goal("open it"), scene(), say)[-1].messages[-1].content == "open it"
    moves = played(attack("escalation", steps=STEPS), goal("open it"), scene(), say)
    assert len(asked(moves)) == 1
    assert len(moves[-1].messages) == 5


def test_the_attackers_model_writes_turns_and_hears_of_refused_ones():
    replies = iter([("small", "no"), ("rude", "no"), ("nearer", "no"), ("open it!", "yes")])
    briefs: list[str] = []

    def write(messages):
        briefs.append(messages[-1].content)
        prompt, asks = next(replies)
        return json.dumps({"prompt": prompt, "asks": asks})

    def say(messages):
        return {"rude": "no", "open it!": "yes"}.get(messages[-1].content, "well")

    made = attack("escalation", by="attacker")
    moves = played(made, goal("open it"), scene(), say, write)
    assert made.needs() == {"writes"}
    assert attack("escalation").needs() == set()
    assert asked(moves) == ["open it!"]
    assert roles(moves[-1]) == ["small", "well", "nearer", "well", "open it!"]
    assert "rude" in briefs[2]
    assert "rude" not in briefs[3]


def test_an_attackers_model_that_writes_nothing_leaves_the_bare_request():
    told = scene()
    moves = played(attack("escalation", by="attacker", retries=1), goal("open it"), told)
    assert [type(move) for move in moves[:2]] == [Write, Write]
    assert asked(moves) == ["open it"]
    assert told.shared["unread"] == 2
