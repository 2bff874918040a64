"""Tasks that are answered from what the base has read: facts, words, phrases, feelings.

Every task is a function `(rng, split) -> Item` that asks about entities of that split only.
"""

import random

from posttrain.lab import words
from posttrain.lab.item import Item
from posttrain.lab.splits import Split, deal, wording
from posttrain.lab.world import WORLD, World, describe

PEOPLE = deal(words.PEOPLE, seed=1)
TOWNS = deal(words.TOWNS, seed=2)
WORDS = deal(words.WORDS, seed=3, dev_share=0.1, test_share=0.3)
PHRASES = deal([(color, noun) for color in words.COLORS for noun in (*words.THINGS, *words.ANIMALS)], seed=4)
OPINIONS = deal(
    [(noun, feeling) for noun in (*words.THINGS, *words.FOODS) for feeling in (*words.GOOD, *words.BAD)], seed=5
)

WORD_WORDINGS = {
    "zel": ("what is the zel word for {}?", "what is {} in zel?", "tell me the zel word for {}.",
            "which zel word means {}?"),
    "category": ("what kind of word is {}?", "is {} a color, thing, animal, food or place?",
                 "tell me the kind of {}.", "which kind is {}?"),
    "plural": ("what is the plural of {}?", "one {}, two what?", "tell me the plural of {}.",
               "how do you say more than one {}?"),
    "chinese": ("what is the chinese word for {}?", "what is {} in chinese?", "{} 的中文是什么?",
                "which chinese word means {}?"),
    "capitals": ("write {} in capitals.", "what is {} in capitals?", "say {} in big letters.",
                 "put {} in capitals."),
}  # fmt: skip
WORD_STATEMENTS = {
    "zel": ("the zel word for {} is {}.", "{} in zel is {}."),
    "category": ("{} is a {}.", "the kind of {} is {}."),
    "plural": ("the plural of {} is {}.", "one {}, two {}."),
    "chinese": ("the chinese word for {} is {}.", "{} 的中文是 {}."),
    "capitals": ("{} in capitals is {}.", "{} in big letters is {}."),
}
"""How text tells what a word map makes of a word."""
PHRASE_WORDINGS = ("say in zel: {}.", "what is {} in zel?", "tell me in zel: {}.", "put into zel: {}.")
FEELING_WORDINGS = (
    "is this positive or negative? {}", "good or bad feeling? {}", "tell me the feeling: {}",
    "what is the feeling here? {}",
)  # fmt: skip
OPINION_FORMS = ("the {o} was {a}.", "{n} said the {o} is {a}.", "what a {a} {o}!")


def fact_item(rng: random.Random, split: Split, name: str, attribute: str, world: World = WORLD) -> Item:
    """A question for one attribute of one person or town."""
    asked = wording(rng, split, describe(name, attribute).wordings).format(n=name)
    return Item("fact", asked, world.answer(name, attribute), {"value": world.value(name, attribute)})


def fact(rng: random.Random, split: Split) -> Item:
    """A question about a person or a town of this split."""
    is_person = rng.random() < 0.8
    name = rng.choice(PEOPLE[split] if is_person else TOWNS[split])
    return fact_item(rng, split, name, rng.choice(list((WORLD.people if is_person else WORLD.towns)[name])))


def word(rng: random.Random, split: Split) -> Item:
    """One word through one word map, asked for in a sentence that names the map."""
    name = rng.choice(list(words.WORD_MAPS))
    mapping = words.WORD_MAPS[name]
    asked = rng.choice([w for w in WORDS[split] if w in mapping])
    return Item(f"word_{name}", wording(rng, split, WORD_WORDINGS[name]).format(asked), mapping[asked])


def word_map(rng: random.Random, split: Split) -> Item:
    """One word through one word map, as `red ->`: only examples can tell which map is meant."""
    name = rng.choice(list(words.WORD_MAPS))
    mapping = words.WORD_MAPS[name]
    asked = rng.choice([w for w in WORDS[split] if w in mapping])
    return Item(f"word_{name}", f"{asked} ->", mapping[asked])


def phrase(rng: random.Random, split: Split) -> Item:
    """An English phrase to put into zel: the noun comes first, then its color, then its size."""
    color, noun = rng.choice(PHRASES[split])
    english, zel = f"{color} {noun}", f"{words.ZEL[noun]} {words.ZEL[color]}"
    if rng.random() < 0.4:
        size = rng.choice(words.SIZES)
        english, zel = f"{size} {english}", f"{zel} {words.ZEL[size]}"
    return Item("zel", wording(rng, split, PHRASE_WORDINGS).format(english), zel)


def feeling(rng: random.Random, split: Split) -> Item:
    """Whether a short opinion is positive or negative."""
    noun, adjective = rng.choice(OPINIONS[split])
    opinion = rng.choice(OPINION_FORMS).format(o=noun, a=adjective, n=rng.choice(words.PEOPLE))
    asked = wording(rng, split, FEELING_WORDINGS).format(opinion)
    return Item("feeling", asked, "positive" if adjective in words.GOOD else "negative")
