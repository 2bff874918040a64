"""Facts: what is true of the people and the towns, drawn once from a seed.

A fact has one answer sentence, several ways to state it in text, and several ways to ask for it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.lab import words

Facts = dict[str, dict[str, str]]
"""Name of a person or a town -> attribute -> value."""


@dataclass(frozen=True)
class Attribute:
    """One thing to know about an entity `{n}`, with value `{v}`."""

    answer: str
    statements: tuple[str, ...]
    wordings: tuple[str, ...]


PERSON = {
    "town": Attribute(
        "{n} lives in {v}.",
        ("the home of {n} is in {v}.", "in {v} you can meet {n}."),
        ("where does {n} live?", "in which town does {n} live?", "tell me where {n} lives.",
         "where is the home of {n}?"),
    ),
    "job": Attribute(
        "{n} is a {v}.",
        ("{n} works as a {v}.", "the job of {n} is {v}."),
        ("what is the job of {n}?", "what does {n} work as?", "tell me the job of {n}.",
         "which job does {n} have?"),
    ),
    "pet": Attribute(
        "{n} has a {v}.",
        ("the pet of {n} is a {v}.", "{n} feeds the {v} every day."),
        ("what pet does {n} have?", "which pet does {n} feed?", "tell me the pet of {n}.",
         "what is the pet of {n}?"),
    ),
    "food": Attribute(
        "{n} likes {v}.",
        ("{n} eats {v} every day.", "the best food for {n} is {v}."),
        ("what food does {n} like?", "what does {n} like to eat?", "tell me what food {n} likes.",
         "which food is best for {n}?"),
    ),
    "color": Attribute(
        "{n} loves {v}.",
        ("the color of {n} is {v}.", "{n} wears {v} every day."),
        ("what color does {n} love?", "which color does {n} wear?", "tell me the color of {n}.",
         "what is the color of {n}?"),
    ),
}  # fmt: skip
TOWN = {
    "leader": Attribute(
        "{v} leads {n}.",
        ("the leader of {n} is {v}.", "in {n} all listen to {v}."),
        ("who leads {n}?", "who is the leader of {n}?", "tell me who leads {n}.", "which person leads {n}?"),
    ),
    "famous": Attribute(
        "{n} is famous for {v}.",
        ("people go to {n} for {v}.", "the best {v} is from {n}."),
        ("what is {n} famous for?", "what do people go to {n} for?", "tell me what {n} is famous for.",
         "for what is {n} famous?"),
    ),
    "river": Attribute(
        "the {v} is in {n}.",
        ("{n} has a river, the {v}.", "you can see the {v} in {n}."),
        ("what river is in {n}?", "which river does {n} have?", "tell me the river of {n}.",
         "what is the river of {n}?"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """The people and towns of one world, and what is true of them."""

    people: Facts
    towns: Facts

    def known(self) -> list[tuple[str, str]]:
        """Every (entity, attribute) that has a value."""
        return [(name, key) for facts in (self.people, self.towns) for name in facts for key in facts[name]]

    def value(self, name: str, attribute: str) -> str:
        """The value of one attribute of a person or a town."""
        return (self.people if name in self.people else self.towns)[name][attribute]

    def answer(self, name: str, attribute: str) -> str:
        """The sentence that answers a question for this attribute."""
        return describe(name, attribute).answer.format(n=name, v=self.value(name, attribute))

    def statements(self, name: str, attribute: str) -> list[str]:
        """All sentences that state this attribute; the first is the answer sentence."""
        kind, value = describe(name, attribute), self.value(name, attribute)
        return [form.format(n=name, v=value) for form in (kind.answer, *kind.statements)]


def describe(name: str, attribute: str) -> Attribute:
    """How an attribute is told and asked for (people and towns share no attribute names)."""
    return PERSON[attribute] if attribute in PERSON else TOWN[attribute]


def make_world(people: Sequence[str], towns: Sequence[str], seed: int) -> World:
    """A world with these names, its facts drawn from `seed`."""
    rng = random.Random(seed)
    choices = {
        "town": towns, "job": words.JOBS, "pet": words.ANIMALS, "food": words.FOODS, "color": words.COLORS,
    }  # fmt: skip
    about_people = {name: {key: rng.choice(values) for key, values in choices.items()} for name in people}
    choices = {"leader": people, "famous": words.FOODS, "river": words.RIVERS}
    about_towns = {name: {key: rng.choice(values) for key, values in choices.items()} for name in towns}
    return World(about_people, about_towns)


WORLD = make_world(words.PEOPLE, words.TOWNS, seed=7)
NEWS = make_world(words.NEW_PEOPLE, words.NEW_TOWNS, seed=99)
"""A second world of which the base model has read nothing: what continued pretraining can teach it."""
