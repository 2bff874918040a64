"""A siege: attacks on goals, many at once, until each has complied, given up, or the budget is spent.

Every attack on every goal is a lane of its own. Lanes move together: in a round all that they ask is answered at once, judged
at once, and written to the ledger. Lanes begin goal by goal, so that a budget that runs out has tried every attack. A lane that
never asked anything is not evaluated: neither safe nor unsafe.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pydantic import Field

from posttrain.functional.seeds import seed_of
from posttrain.models.endpoint import Reply
from posttrain.models.speaker import Local, Speaker
from posttrain.schema.errors import UsageError
from posttrain.schema.rows import Prompt
from posttrain.schema.settings import Settings
from posttrain.schema.verdicts import Verdict

from .attack import UNREAD, Armed, Ask, Attack, Composed, Goal, Heard, Lead, Move, Scene, Tries, Write
from .job import Job
from .ledger import Entry, Kind, Ledger, digest_of


class Judges(Protocol):
    """Whoever says what became of a request, such as `verdicts.Jury`."""

    def opinions(self, rows: Sequence[Prompt], answers: Sequence[str]) -> Sequence[tuple[Verdict, str]]:
        """What became of each request by its answer, in order, and why it is unclear."""


class Budget(Settings):
    """How much a siege may cost; what is not given is not limited."""

    queries: int | None = Field(None, ge=1)
    """Most questions to the attacked model."""
    tokens: int | None = Field(None, ge=1)
    """Most tokens that the attacked model and the attacker's write."""
    seconds: float | None = Field(None, gt=0)
    """Longest time from the first question on; another machine gets another distance in it."""


@dataclass(eq=False)
class Lane:
    """One attack on one goal. `heard` are its attempts so far, `next` is what it wants done and `digest` names that."""

    family: str
    attack: Attack | Composed
    goal: Goal
    going: Tries
    number: int
    heard: list[Entry] = field(default_factory=list)
    n: int = 0
    next: Move | None = None
    digest: str = ""

    @property
    def kind(self) -> Kind:
        """What its next move is."""
        return "write" if isinstance(self.next, Write) else "lead" if isinstance(self.next, Lead) else "ask"

    @property
    def judged_by(self) -> Prompt:
        """The request that an answer to its next move is held against: the goal, however it is put; of a turn that only
        leads up to it, that turn."""
        assert self.next is not None
        return replace(self.goal.row, messages=self.next.messages) if self.kind == "lead" else self.goal.row

    def begin(self) -> None:
        self._advance(None)

    def take(self, entry: Entry) -> None:
        """Goes on with what came of its move."""
        self.n += 1
        if entry.kind == "write":
            return self._advance(entry.text)
        assert entry.verdict is not None
        self._advance(Heard(entry.text, entry.verdict))
        if entry.kind == "ask":
            self.heard.append(entry)
            if entry.verdict == "complied":
                self.next = None
                self.going.close()

    @property
    def verdict(self) -> Verdict | None:
        """What came of it: one answer that complied is enough, and one that refused is needed to say that it held. None where
        nothing was asked, and where the budget ended it before it could get through."""
        if self.next is not None:
            return None
        said = {entry.verdict for entry in self.heard}
        return next((v for v in ("complied", "refused", "unclear") if v in said), None)

    def _advance(self, answer: Any) -> None:
        try:
            self.next = self.going.send(answer)
            self.digest = digest_of(self.next.messages)
        except StopIteration:
            self.next = None


@dataclass
class Siege:
    """Who is attacked, who judges, who writes, and how much it may cost."""

    target: Speaker
    jury: Judges
    ledger: Ledger
    writer: Speaker | None = None
    budget: Budget = field(default_factory=Budget)
    at_once: int = 64
    seed: int = 0
    examples: Sequence[tuple[str, str]] = ()
    clock: Callable[[], float] = time.monotonic
    shared: dict[str, dict[str, Any]] = field(default_factory=dict)

    def unread(self) -> dict[str, int]:
        """Family -> how many replies of the attacker's model nothing could be made of."""
        return {family: kept[UNREAD] for family, kept in self.shared.items() if kept.get(UNREAD)}

    def run(self, attacks: Armed, goals: Sequence[Goal], job: Job) -> list[Lane]:
        """All lanes, goal by goal, as far as they went. Raises Stopped when asked to stop."""
        lanes = list(self._lanes(attacks, goals))
        self._begun, self._seconds, self._queries, self._tokens = self.clock() - self._spent(), 0.0, 0, 0
        waiting, going, done = deque(lanes), list[Lane](), 0
        while waiting or going:
            while waiting and len(going) < self.at_once:
                lane = waiting.popleft()
                lane.begin()
                going.append(lane)
            self._round(self._affordable([lane for lane in going if lane.next is not None]))
            if self._is_spent():
                break
            done += sum(lane.next is None for lane in going)
            going = [lane for lane in going if lane.next is not None]
            job.answered(done, len(lanes))
        return lanes

    def _lanes(self, attacks: Armed, goals: Sequence[Goal]) -> Iterator[Lane]:
        weights = self.target if isinstance(self.target, Local) else None
        self.shared = {family: {} for family in attacks}
        for goal in goals:
            for family, attack in attacks.items():
                draw = random.Random(f"{self.seed} {family} {goal.id}")
                scene = Scene(draw, self.examples, weights, self.shared[family])
                yield Lane(family, attack, goal, attack.tries(goal, scene), _number(family, goal))

    def _affordable(self, lanes: Sequence[Lane]) -> list[Lane]:
        """The lanes that may still make their move: with few questions left, the first of those that ask."""
        if self.budget.queries is None:
            return list(lanes)
        left, found = self.budget.queries - self._queries, list[Lane]()
        for lane in lanes:
            left -= lane.kind != "write"
            if lane.kind == "write" or left >= 0:
                found.append(lane)
        return found

    def _is_spent(self) -> bool:
        """Time is what the ledger says, so that a run which goes on after a kill ends where it would have."""
        budget = self.budget
        limits = ((budget.queries, self._queries), (budget.tokens, self._tokens), (budget.seconds, self._seconds))
        return any(limit is not None and used >= limit for limit, used in limits)

    def _spent(self) -> float:
        """Seconds that were spent before a kill."""
        return max((entry.seconds for entry in self.ledger.entries.values()), default=0.0)

    def _round(self, lanes: Sequence[Lane]) -> None:
        """Every lane makes its move: for the first time, or as the ledger has it."""
        new = [lane for lane in lanes if self._known(lane) is None]
        self._make([lane for lane in new if isinstance(lane.next, Ask)], self.target)
        self._make([lane for lane in new if isinstance(lane.next, Write)], self.writer)
        for lane in lanes:
            entry = self._known(lane)
            assert entry is not None
            self._queries += entry.kind != "write"
            self._tokens += entry.n_tokens
            self._seconds = max(self._seconds, entry.seconds)
            lane.take(entry)

    def _known(self, lane: Lane) -> Entry | None:
        return self.ledger.find((lane.family, lane.goal.id, lane.n), lane.digest)

    def _make(self, lanes: Sequence[Lane], speaker: Speaker | None) -> None:
        """Makes moves of one kind, and writes down what came of them."""
        if not lanes:
            return
        if speaker is None:
            raise UsageError(f"{lanes[0].family!r} needs a model to write with. Give `attacker: {{model: NAME}}`.")
        numbers = [seed_of(lane.number, lane.n) for lane in lanes]
        said = speaker.replies([lane.next.messages for lane in lanes if lane.next], numbers)
        opinions = [(None, each.why) for each in said] if lanes[0].kind == "write" else self._opinions(lanes, said)
        seconds = self.clock() - self._begun
        self.ledger.add(
            _entry(lane, each, *opinion, seconds) for lane, each, opinion in zip(lanes, said, opinions, strict=True)
        )

    def _opinions(self, lanes: Sequence[Lane], said: Sequence[Reply]) -> Sequence[tuple[Verdict | None, str]]:
        """The verdict on each answer, and why it is unclear, as no answer always is."""
        heard = [i for i, each in enumerate(said) if each.text is not None]
        answers = [lanes[i].attack.read(said[i].text or "") for i in heard]
        judged = self.jury.opinions([lanes[i].judged_by for i in heard], answers)
        opinions: list[tuple[Verdict | None, str]] = [("unclear", each.why) for each in said]
        for i, opinion in zip(heard, judged, strict=True):
            opinions[i] = opinion
        return opinions


def _number(family: str, goal: Goal) -> int:
    """What names the draws of a lane, wherever it stands."""
    return random.Random(f"{family} {goal.id}").getrandbits(32)


def _entry(lane: Lane, said: Reply, verdict: Verdict | None, why: str, seconds: float) -> Entry:
    assert lane.next is not None
    messages = lane.next.messages
    return Entry(
        lane.family, lane.goal.id, lane.n, lane.kind, lane.digest, tuple(m.as_dict() for m in messages),
        said.text or "", verdict, said.n_tokens, why, seconds, lane.next.way if isinstance(lane.next, Ask) else "",
    )  # fmt: skip
