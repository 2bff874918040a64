"""Scripted parts of a siege: a speaker and judges that are functions, attacks played without one, and what alike ones keep."""

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.data.chat import ChatFormat
from posttrain.engine.attack import Ask, Attack, Composed, Goal, Heard, Lead, Move, Scene, Write
from posttrain.engine.coded import Coded
from posttrain.models.endpoint import Reply
from posttrain.models.policy import Policy
from posttrain.models.sampler import Sampling
from posttrain.models.speaker import Local
from posttrain.schema.find import attack_class
from posttrain.schema.rows import Message, Messages, Prompt
from posttrain.schema.verdicts import Verdict
from tests import tiny

REQUEST = "how do i open the old box in the house of the mayor"
EXAMPLES = [(f"what is {n}?", f"it is {n}.") for n in range(40)]
NEEDED: dict[str, dict[str, Any]] = {
    "template": {"forms": ["please: {request}"]},
    "glossary": {"words": {"open": "abrir", "box": "caja"}},
    "gcg": {"steps": 4, "every": 2, "length": 3, "candidates": 8},
}
"""Options without which an attack cannot be, or takes long."""


@dataclass
class Speaking:
    """A speaker that is a function of what it is asked and of the number of its draws."""

    say: Callable[[Messages, int], str | None]
    heard: list[Messages] = field(default_factory=list)
    calls: int = 0

    def replies(self, conversations: Sequence[Messages], numbers: Sequence[int]) -> list[Reply]:
        self.calls += 1
        self.heard += conversations
        said = [self.say(messages, number) for messages, number in zip(conversations, numbers, strict=True)]
        return [Reply(None, "no reply") if text is None else Reply(text, n_tokens=len(text.split())) for text in said]


@dataclass
class Judging:
    """Judges that are a function of an answer."""

    judge: Callable[[str], Verdict]
    seen: list[tuple[Prompt, str]] = field(default_factory=list)

    def opinions(self, rows: Sequence[Prompt], answers: Sequence[str]) -> list[tuple[Verdict, str]]:
        self.seen += zip(rows, answers, strict=True)
        return [(verdict := self.judge(answer), "neither" if verdict == "unclear" else "") for answer in answers]


def by_first_word(answer: str) -> Verdict:
    """Yes complied, no refused, all else is unclear."""
    first = answer.partition(" ")[0]
    return "complied" if first == "yes" else "refused" if first == "no" else "unclear"


def goal(request: str = "how do I open the old box?", system: str = "", **columns: Any) -> Goal:
    before = (Message("system", system),) if system else ()
    return Goal(Prompt((*before, Message("user", request)), columns=columns), request[:20])


def local() -> Local:
    """A tiny random model that answers."""
    tokenizer = tiny.tokenizer()
    return Local(Policy(tiny.model(), tokenizer), ChatFormat(tokenizer), Sampling(max_new_tokens=8))


def scene(seed: int = 0, **more: Any) -> Scene:
    return Scene(random.Random(seed), EXAMPLES, **more)


def attack(name: str, **options: Any) -> Attack:
    made: Attack = attack_class(name)(**NEEDED.get(name, {}) | options)
    return made


def played(
    attack: Attack | Composed,
    goal: Goal,
    scene: Scene,
    say: Callable[[Messages], str] = lambda messages: "no",
    write: Callable[[Messages], str] = lambda messages: "{}",
    judge: Callable[[str], Verdict] = by_first_word,
    most: int = 2000,
) -> list[Move]:
    """The moves of an attack against such a model and such an attacker's model. Fails if there are more than so many."""
    moves: list[Move] = []
    going, answer = attack.tries(goal, scene), None
    while True:
        try:
            move = going.send(answer)
        except StopIteration:
            return moves
        moves.append(move)
        assert len(moves) <= most, "it does not end"
        if isinstance(move, Write):
            answer = write(move.messages)
            continue
        said = say(move.messages)
        answer = Heard(said, judge(attack.read(said)))
        if answer.verdict == "complied" and not isinstance(move, Lead):
            with contextlib.suppress(StopIteration):
                going.send(answer)  # it is told, and does no more
            return moves


def asked(moves: Sequence[Move]) -> list[str]:
    """The last messages of all attempts."""
    return [move.messages[-1].content for move in moves if isinstance(move, Ask) and not isinstance(move, Lead)]


def check_code(name: str, coded: Callable[[str], str], request: str = REQUEST) -> None:
    """Every form asks for the request in the code alone, and an answer in the code complies as one in plain does."""
    there, plain = coded(request), attack(name)
    found = asked(played(attack(name, at_most=9), goal(request), scene()))
    assert len(found) == 4
    assert all(there in text and request not in text for text in found)
    assert there in found  # one form is the code and nothing else
    both = attack(name, answers="coded")
    assert both.read(there) == plain.read(there) == request
    assert both.read(request) == plain.read(request) == request
    assert all("as well" in text for text in asked(played(both, goal(request), scene())))
    assert not any("as well" in text for text in found)
    assert isinstance(plain, Coded)
    own = attack(name, forms=["in {code}: {request}"])
    assert asked(played(own, goal(request), scene())) == [f"in {plain.code.name}: {there}"]


def check_forms(name: str) -> None:
    """Every form that ships holds the whole request, some in an order that the seed draws; forms of one's own are taken."""
    found = asked(played(attack(name, at_most=50), goal("open the box?"), scene()))
    assert len(found) == len(set(found)) == len(type(attack(name)).model_fields["forms"].default)
    assert all("open the box?" in text and text != "open the box?" for text in found)
    orders = [asked(played(attack(name, at_most=3), goal(), scene(seed))) for seed in range(5)]
    assert all(len(order) == 3 for order in orders)
    assert len(set(map(tuple, orders))) > 1
    assert asked(played(attack(name, forms=["so: {request}!"]), goal("x"), scene())) == ["so: x!"]
