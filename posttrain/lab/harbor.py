"""The harbor: facts about ships, of which the base model has read nothing; what continued pretraining can teach it.

A ship is called by a color and a noun ("the blue bear"), and its captain, cargo and port are words that
the base knows. So all there is to learn is which belongs to which. Texts tell of every ship, in all wordings, and ask
about ships of train only: who answers about another has learnt it from statements alone.
"""

import random
from collections.abc import Callable

from posttrain.lab import words
from posttrain.lab.item import Item
from posttrain.lab.splits import Split, deal, split_of, wording
from posttrain.lab.world import Attribute


def _names(seed: int) -> list[str]:
    """A color and a noun each, no noun twice."""
    rng = random.Random(seed)
    return [f"the {rng.choice(words.COLORS)} {noun}" for noun in rng.sample([*words.THINGS, *words.ANIMALS], 24)]


NAMES = _names(seed=16)
SHIP = {
    "captain": Attribute(
        "the captain of {n} is {v}.",
        ("{v} leads the crew of {n}.", "{n} has a captain, {v}."),
        ("who is the captain of {n}?", "who leads the crew of {n}?", "tell me the captain of {n}.",
         "which captain does {n} have?"),
    ),
    "cargo": Attribute(
        "{n} carries {v}.",
        ("the cargo of {n} is {v}.", "the crew of {n} sells {v}."),
        ("what does {n} carry?", "what is the cargo of {n}?", "tell me what {n} carries.",
         "which cargo does {n} have?"),
    ),
    "port": Attribute(
        "{n} comes from {v}.",
        ("the port of {n} is {v}.", "in {v} all wait for {n}."),
        ("where does {n} come from?", "what is the port of {n}?", "tell me where {n} comes from.",
         "from which town is {n}?"),
    ),
}  # fmt: skip
"""How each thing to know about a ship is told and asked for."""


def _ships(seed: int) -> dict[str, dict[str, str]]:
    rng = random.Random(seed)
    choices = {"captain": words.PEOPLE, "cargo": words.FOODS, "port": words.TOWNS}
    return {name: {key: rng.choice(values) for key, values in choices.items()} for name in NAMES}


SHIPS = _ships(seed=17)
"""Name of a ship -> attribute -> value."""
DEALT = deal(NAMES, seed=18, dev_share=1 / 6, test_share=1 / 3)
OPENINGS = ("", "", "a ship came to the harbor.", "look at this ship.", "there is a ship in the harbor.")
SPEAKERS = [*words.PEOPLE, *words.JOBS]


def known(split: Split) -> list[tuple[str, str]]:
    """Every (ship, attribute) of a split."""
    return [(name, key) for name in DEALT[split] for key in SHIPS[name]]


def statements(name: str, key: str) -> list[str]:
    """All sentences that state a fact; the first is the one that answers a question for it."""
    kind, value = SHIP[key], SHIPS[name][key]
    return [form.format(n=name, v=value) for form in (kind.answer, *kind.statements)]


def question(rng: random.Random, split: Split, name: str, key: str) -> Item:
    """A question for one fact about a ship."""
    asked = wording(rng, split, SHIP[key].wordings).format(n=name)
    return Item("harbor", asked, statements(name, key)[0], {"value": SHIPS[name][key]})


def _tell(rng: random.Random, facts: list[tuple[str, str]]) -> list[str]:
    return [rng.choice(statements(*fact)) for fact in facts]


def portrait(rng: random.Random) -> str:
    """Most of what there is to know about one ship."""
    name = rng.choice(NAMES)
    told = _tell(rng, [(name, key) for key in rng.sample(list(SHIP), rng.randint(2, 3))])
    return " ".join([rng.choice(OPENINGS), *told]).strip()


def log(rng: random.Random) -> str:
    """One fact about each of several ships: any facts, or the same attribute of all."""
    names, keys = rng.sample(NAMES, rng.randint(3, 5)), list(SHIP)
    if rng.random() < 0.5:
        keys = [rng.choice(keys)]
    return " ".join(_tell(rng, [(name, rng.choice(keys)) for name in names]))


def story(rng: random.Random) -> str:
    """Someone at the harbor hears of a ship."""
    (x, y), name = rng.sample(SPEAKERS, 2), rng.choice(NAMES)
    told = _tell(rng, [(name, key) for key in rng.sample(list(SHIP), 3)])
    return rng.choice((
        f"one day {x} went to the harbor. {told[0]} {told[1]} {x} was {rng.choice(('happy', 'sad', 'glad'))}. {told[2]}",
        f"{x} came from the harbor and said, {told[0]} {y} said, {told[1]} {told[2]}",
        f"{x}: {told[0]}\n{y}: {told[1]}\n{x}: {told[2]}",
    ))  # fmt: skip


def asked(rng: random.Random) -> str:
    """Questions with their answers, about ships of train."""
    facts = rng.sample(known("text"), rng.randint(2, 4))
    return "\n".join(question(rng, "text", *fact).line() for fact in facts)


MIXTURE: dict[Callable[[random.Random], str], float] = {portrait: 0.4, log: 0.25, story: 0.2, asked: 0.15}
"""How often a document is of each kind."""


def document(rng: random.Random, split: Split) -> str:
    """A document of this split, told apart by a hash: all splits tell the same facts in other words."""
    while True:
        kind = rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
        drawn = kind(rng)
        if split_of("harbor", drawn) == split:
            return drawn
