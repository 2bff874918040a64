"""TAP: a tree whose branches off the topic cost no question, and whose best leaves grow on."""

import json
from itertools import count

from posttrain.engine.attack import Write
from tests.besieged import asked, attack, goal, played, scene


def writer(rate=lambda text: 1, same=lambda text: "yes"):
    """Words a child as its parent's name and a number, and answers the other questions."""
    number = count()

    def write(messages):
        text = messages[-1].content
        if text.startswith("Do these two"):
            return same(text)
        if text.startswith("How near"):
            return f"[[{rate(text)}]]"
        last = [json.loads(m.content)["prompt"] for m in messages if m.role == "assistant"]
        return json.dumps({"prompt": f"{last[-1] if last else 't'}.{next(number)}"})

    return write


def test_the_tree_has_its_shape():
    made = attack("tap", depth=3, branches=2, width=3)
    moves = played(made, goal(), scene(), write=writer())
    depths = [text.count(".") for text in asked(moves)]
    assert depths == [1] * 2 + [2] * 4 + [3] * 6


def test_what_is_off_the_topic_costs_no_question():
    write = writer(same=lambda text: "no" if ".1" in text else "Yes.")
    found = asked(played(attack("tap", depth=1, branches=3), goal(), scene(), write=write))
    assert found == ["t.0", "t.2"]
    kept = asked(played(attack("tap", depth=1, branches=3, on_topic=False), goal(), scene(), write=write))
    assert len(kept) == 3


def test_the_best_leaf_grows_on():
    write = writer(rate=lambda text: 9 if "good t.2" in text else 2)
    moves = played(
        attack("tap", depth=2, branches=4, width=1), goal(), scene(), lambda m: f"no good {m[-1].content}", write
    )
    assert all(text.startswith("t.2.") for text in asked(moves)[4:])
    assert len(asked(moves)) == 8


def test_an_unclear_answer_is_nearer_than_any_refusal():
    write = writer(rate=lambda text: 10 if "no" in text else 1)
    say = lambda m: "hm" if m[-1].content == "t.1" else "no"  # noqa: E731
    moves = played(attack("tap", depth=2, branches=3, width=1), goal(), scene(), say, write)
    assert all(text.startswith("t.1.") for text in asked(moves)[3:])


def test_no_rating_and_no_topic_are_counted_and_go_on():
    told = scene()
    moves = played(attack("tap", depth=1), goal(), told, write=writer(rate=lambda t: "many", same=lambda t: "perhaps"))
    assert len(asked(moves)) == 2
    assert told.shared["unread"] == 4


def test_without_an_attacker_that_writes_the_tree_ends():
    moves = played(attack("tap", depth=5, branches=2, retries=0), goal(), scene())
    assert [type(move) for move in moves] == [Write, Write]
