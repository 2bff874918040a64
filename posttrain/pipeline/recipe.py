"""A recipe: one YAML file that says which model, which stages, and what every model is measured with.

    name: quickstart
    model: lab                       # a name, a folder or a Hub id
    seed: 0
    measure:                         # one suite; every model is measured once with it
      - benchmark: {name: chat, data: lab:chat/test}
      - size
    stages:
      - sft: {data: lab:chat/train, learning_rate: 6e-4}
      - dpo: {data: lab:pairs/train, gate: {chat.exact_match: {drop_at_most: 0.05}}}
      - few_shot: {from: base, data: lab:word_map/train, k: 4}
      - repeat: {times: 2, stages: [{sample: {data: lab:chat/train}}, {sft: {name: again, data: sample}}]}

These are its parts; `reading.py` reads them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from posttrain.engine.method import Stage
from posttrain.schema.artifacts import hash_of

from .tree import Node

PLAIN = ("at_least", "at_most", "drop_at_most", "rise_at_most")
SURELY = "surely_"
"""Before a rule: not the value found must hold the limit, but every value of its 95 % interval."""
RULES = (*PLAIN, *(SURELY + rule for rule in PLAIN))
AGAINST = "against"
BASE = "base"


@dataclass(frozen=True)
class Gate:
    """A limit on a metric, `<measure>.<metric>`. Rules on a drop or a rise compare with the model the stage began with, or
    with another that is named."""

    metric: str
    rule: str
    limit: float
    node: Node
    against: str | None = None

    def __str__(self) -> str:
        against = f" {AGAINST} {self.against}" if self.against else ""
        return f"{self.metric} {self.rule} {self.limit:g}{against}"

    @property
    def measure(self) -> str:
        return self.metric.partition(".")[0]

    @property
    def plain(self) -> str:
        """The rule without `surely_`."""
        return self.rule.removeprefix(SURELY)

    @property
    def is_relative(self) -> bool:
        return self.plain in ("drop_at_most", "rise_at_most")


@dataclass(frozen=True)
class Entry:
    """One stage or measure as written. `stage` is None when its method or an option of it is wrong."""

    name: str
    method: str
    node: Node
    stage: Stage | None = None
    source: str | None = None
    gates: tuple[Gate, ...] = ()
    measured: bool = True


@dataclass(frozen=True)
class Repeat:
    """Stages that are gone through `times` times, or until all gates of a round hold."""

    times: int
    stages: tuple["Entry | Repeat", ...]
    node: Node
    until_gates: bool = False

    @property
    def ends_early(self) -> bool:
        """Whether it, or one within it, ends once its gates hold."""
        return self.until_gates or any(entry.ends_early for entry in self.stages if isinstance(entry, Repeat))


@dataclass(frozen=True)
class Round:
    """A round of a repetition that ends early once its gates hold. `loop` names the repetition, and `before` are the rounds
    around it, as names have them."""

    loop: str
    before: str
    turn: int
    times: int

    @property
    def is_last(self) -> bool:
        return self.turn == self.times

    def name_in(self, name: str, turn: int) -> str:
        """What a stage of this round is called in another."""
        plain, _, rounds = name.partition("@")
        place = self.before.count("@")
        turns = rounds.split("@")
        turns[place] = str(turn)
        return "@".join([plain, *turns])


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, overrides applied. `tree` is what it was read from, `changes` are the lines `path old -> new` of
    the overrides, `text` is what to store so that it can be run again."""

    name: str
    model: str
    seed: int
    measure: tuple[Entry, ...]
    stages: tuple[Entry | Repeat, ...]
    tree: Node
    text: str
    changes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The same for recipes that differ in comments and layout only."""
        return hash_of(self.tree.plain())


def unrolled(
    entries: Sequence[Entry | Repeat], rounds: str = "", within: Round | None = None
) -> Iterator[tuple[Entry, str, Round | None]]:
    """Every stage with the rounds it is in, such as `@2`, and the innermost that may be the last, in the order of the run."""
    for entry in entries:
        if isinstance(entry, Entry):
            yield entry, rounds, within
            continue
        for turn in range(1, entry.times + 1):
            inner = Round(_loop(entry, rounds), rounds, turn, entry.times) if entry.until_gates else within
            yield from unrolled(entry.stages, f"{rounds}@{turn}", inner)


def _loop(entry: Repeat, rounds: str) -> str:
    """What tells a repetition from others: one of its stages, and the rounds around it."""
    return f"{min(names_in(entry.stages), default='')}{rounds}"


def names_in(entries: Sequence[Entry | Repeat]) -> set[str]:
    """What the stages of a recipe are called, whatever their rounds."""
    return {name for e in entries for name in ({e.name} if isinstance(e, Entry) else names_in(e.stages))}
