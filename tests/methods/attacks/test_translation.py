"""Translation: the attacker's model translates, and replies that are no translation are asked for again."""

import json

from posttrain.engine.attack import Write
from tests.besieged import asked, attack, goal, played, scene


def translate(messages):
    language = messages[-1].content.split("into ")[1].split(".")[0]
    return json.dumps({"translation": f"in {language}"})


def test_each_language_is_asked_once():
    made = attack("translation", languages=["Welsh", "Zulu"], form="<{request}>")
    moves = played(made, goal(), scene(), write=translate)
    assert sorted(asked(moves)) == ["<in Welsh>", "<in Zulu>"]
    assert {move.way for move in moves if not isinstance(move, Write)} == {"Welsh", "Zulu"}


def test_a_bad_reply_is_counted_and_asked_for_again():
    replies, told = iter(["I will not", "{", '{"translation": "salut"}']), scene()
    moves = played(attack("translation", languages=["French"], retries=2), goal(), told, write=lambda m: next(replies))
    assert asked(moves) == ["salut\n\nAnswer in English."]
    assert told.shared["unread"] == 2


def test_a_language_without_translation_is_left_out():
    told = scene()
    assert asked(played(attack("translation", retries=1), goal(), told)) == []
    assert told.shared["unread"] == 4 * 2
