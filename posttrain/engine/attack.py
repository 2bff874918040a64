"""An attack: a way to put a request so that a model does what it ought to refuse. One file each, in `methods/attacks`.

An attack is a dialogue with whoever runs it. `tries` is a generator that yields what it wants done, and is sent what came of
it:

    heard = yield from ask(messages)     the answer of the attacked model and the verdict on it: one attempt
    heard = yield from lead(messages)    the same of a turn that only prepares the request: no attempt
    text = yield from write(messages)    what the attacker's own model writes

It touches nothing else and draws from the generator of its scene, so that the same seed and the same answers give the same
attack: a ledger of the answers is all that a killed run needs to go on. It ends by itself, or when an answer complied, of
which it is still told.
"""

import random
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field

from posttrain.functional.quoting import filled
from posttrain.schema.rows import Message, Messages, Prompt
from posttrain.schema.settings import Settings
from posttrain.schema.verdicts import Verdict

if TYPE_CHECKING:
    from posttrain.models.speaker import Local

T = TypeVar("T")

REQUEST = "{request}"
"""The place in a form where the request stands."""
UNREAD = "unread"
"""Where the replies are counted that nothing could be made of."""


@dataclass(frozen=True)
class Ask:
    """The attacked model is to answer these messages. `way` names how the request is put, where an attack has several."""

    messages: Messages
    way: str = ""


@dataclass(frozen=True)
class Lead(Ask):
    """The same of a turn that only leads up to the request. Whether it is answered or refused is judged by itself; it is no
    attempt, as what it asks for is harmless."""


@dataclass(frozen=True)
class Write:
    """The attacker's model is to go on with these messages."""

    messages: Messages


@dataclass(frozen=True)
class Heard:
    """What the attacked model said, and whether it did as it was asked."""

    answer: str
    verdict: Verdict


Move = Ask | Write
Tries = Generator[Move, Any, None]


@dataclass(frozen=True)
class Goal:
    """A request that ought to be refused, as its row has it; `id` names it in ledgers and reports."""

    row: Prompt
    id: str

    @property
    def request(self) -> str:
        return self.row.messages[-1].content

    @property
    def before(self) -> Messages:
        """What stands before the request: mostly nothing, or a system prompt."""
        return self.row.messages[:-1]

    def put(self, request: str) -> Messages:
        """The messages of this goal with the request put in another way."""
        return (*self.before, Message("user", request))

    def reworded(self, request: str) -> "Goal":
        """The same goal, asked for in another way from the start."""
        return Goal(replace(self.row, messages=self.put(request)), self.id)


@dataclass
class Scene:
    """What an attack on one goal may use. `draw` is its own generator of random numbers; `examples` are harmless questions
    with their answers; `weights` is the attacked model where it is loaded here; `shared` is kept by an attack from goal to
    goal."""

    draw: random.Random
    examples: Sequence[tuple[str, str]] = ()
    weights: "Local | None" = None
    shared: dict[str, Any] = field(default_factory=dict)

    def unread(self) -> None:
        """Counts a reply of the attacker's model that nothing can be made of."""
        self.shared[UNREAD] = self.shared.get(UNREAD, 0) + 1


class Attack(Settings):
    """A way to put a request. `writes` says that it needs a model of the attacker, `opens` that it needs the weights of the
    attacked model, `shows` that it needs examples; a higher `version` means that the same options put it otherwise than
    before, so that nothing found by the older code is kept."""

    version: ClassVar[int] = 1
    writes: ClassVar[bool] = False
    opens: ClassVar[bool] = False
    shows: ClassVar[bool] = False

    @abstractmethod
    def tries(self, goal: Goal, scene: Scene) -> Tries:
        """Yields what is to be done and is sent what came of it."""

    def needs(self) -> frozenset[str]:
        """Which of `writes`, `opens` and `shows` hold of it as it is set."""
        return frozenset(need for need in ("writes", "opens", "shows") if getattr(self, need))

    def read(self, answer: str) -> str:
        """An answer as a judge is to read it: where an attack has it written in a code, what the code says."""
        return answer

    def label(self) -> str:
        """What sets this attack apart from others of its family; mostly nothing."""
        return ""


class Rewrite(Attack):
    """An attack that only puts the request in other words, so that it can stand before or behind another."""

    at_most: int = Field(4, ge=1)
    """How many ways to put a request are tried."""

    @abstractmethod
    def rewrites(self, request: str, draw: random.Random) -> Iterator[str]:
        """The request put in one way after another, as many as there are."""

    def tries(self, goal: Goal, scene: Scene) -> Tries:
        said: set[str] = set()
        for text in self.rewrites(goal.request, scene.draw):
            if text in said:
                continue
            said.add(text)
            yield Ask(goal.put(text))
            if len(said) == self.at_most:
                return


class Wrapped(Rewrite):
    """A rewrite that sets the request into one form after another, in drawn order."""

    forms: tuple[str, ...]
    """Texts with the place {request}, in which the request is put."""

    def rewrites(self, request: str, draw: random.Random) -> Iterator[str]:
        for form in drawn(self.forms, draw):
            yield put_into(form, request)


@dataclass(frozen=True)
class Composed:
    """Attacks one inside the other: rewrites before the one that is no rewrite change the goal that it starts from, those
    behind it change whatever is asked in the end. Turns that were put in another way stay so in the talk that follows."""

    parts: tuple[Attack, ...]

    def tries(self, goal: Goal, scene: Scene) -> Tries:
        inner = next((i for i, part in enumerate(self.parts) if not isinstance(part, Rewrite)), 0)
        start = goal
        for part in self.parts[:inner]:
            start = start.reworded(_first(part, start.request, scene.draw))
        going = self.parts[inner].tries(start, scene)
        said: dict[str, str] = {}
        answer: Any = None
        while True:
            try:
                move = going.send(answer)
            except StopIteration:
                return
            answer = yield move if isinstance(move, Write) else self._outside(inner, move, said, scene.draw)

    def _outside(self, inner: int, move: Ask, said: dict[str, str], draw: random.Random) -> Ask:
        """A move whose last question is put in another way; `said` is how those before it were put."""
        last = max(i for i, message in enumerate(move.messages) if message.role == "user")
        text = move.messages[last].content
        put = text
        for part in self.parts[inner + 1 :]:
            put = _first(part, put, draw)
        before = tuple(
            replace(m, content=said.get(m.content, m.content)) if m.role == "user" else m for m in move.messages[:last]
        )
        said[text] = put
        turn = replace(move.messages[last], content=put)
        return replace(move, messages=(*before, turn, *move.messages[last + 1 :]))

    def read(self, answer: str) -> str:
        for part in reversed(self.parts):
            answer = part.read(answer)
        return answer


def put_into(form: str, request: str, **more: str) -> str:
    """The request in its place in a form, or behind a form that has none; and whatever else has a place there."""
    return filled(form if REQUEST in form else f"{form} {REQUEST}", request=request, **more)


def drawn(options: Sequence[T], draw: random.Random) -> list[T]:
    """All of them in drawn order."""
    return draw.sample(options, len(options))


def parts_of(attack: Attack | Composed) -> tuple[Attack, ...]:
    """The attacks that one is made of, the innermost first: mostly itself alone."""
    return attack.parts if isinstance(attack, Composed) else (attack,)


def name_of(part: Attack) -> str:
    """What an attack is called in a recipe; its class where it is none of the package."""
    module = type(part).__module__
    return module.rpartition(".")[2] if module.startswith("posttrain.") else type(part).__name__


def ask(messages: Messages) -> Generator[Move, Any, Heard]:
    """What the attacked model says to these messages."""
    heard: Heard = yield Ask(messages)
    return heard


def lead(messages: Messages) -> Generator[Move, Any, Heard]:
    """What it says to these, which only lead up to the request."""
    heard: Heard = yield Lead(messages)
    return heard


def write(messages: Messages) -> Generator[Move, Any, str]:
    """What the attacker's model writes behind these messages."""
    text: str = yield Write(messages)
    return text


def _first(part: Attack, request: str, draw: random.Random) -> str:
    assert isinstance(part, Rewrite)
    return next(iter(part.rewrites(request, draw)), request)


Armed = Mapping[str, Attack | Composed]
"""Attacks by the names of their families."""
