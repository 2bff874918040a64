"""Pretraining text: short documents about everything in the world, a few lines each.

Documents hold statements, and questions with their answers: on one line, or as a dialogue between any two speakers,
so that a model learns to look past who speaks. They never hold chat markup. A document belongs to train, dev or test by a hash of its words, so the three share no document.
"""

import random
from collections.abc import Callable, Sequence

from posttrain.lab import howto, knowledge, reasoning, styles, words
from posttrain.lab.item import Item
from posttrain.lab.splits import Split, split_of
from posttrain.lab.world import WORLD, World

Task = Callable[[random.Random, Split], Item]


DIALOGUES = ("{x}: {q}\n{y}: {a}", "{x} asked, {q} {y} said, {a}", "({x}) {q} ({y}) {a}", "{x} {q}\n{y} {a}")
"""How two speakers x and y ask and answer."""
SPEAKERS = [*words.PEOPLE, *words.NOUNS, *words.JOBS]
DIALOGUE_SHARE = 0.4


def _told(rng: random.Random, items: Sequence[Item]) -> str:
    """Questions with their answers, all in the same form."""
    if rng.random() >= DIALOGUE_SHARE:
        return "\n".join(item.line() for item in items)
    form, (x, y) = rng.choice(DIALOGUES), rng.sample(SPEAKERS, 2)
    return "\n".join(form.format(x=x, y=y, q=item.prompt, a=item.answer) for item in items)


def _asked(rng: random.Random, task: Task, fewest: int, most: int) -> str:
    return _told(rng, [task(rng, "text") for _ in range(rng.randint(fewest, most))])


def facts_told(rng: random.Random, world: World = WORLD) -> str:
    """A few facts about one person or town, or one fact about each of several."""
    if rng.random() < 0.6:
        name = rng.choice([*world.people, *world.towns])
        keys = list((world.people if name in world.people else world.towns)[name])
        told = [(name, key) for key in rng.sample(keys, min(len(keys), rng.randint(3, 5)))]
    else:
        told = rng.sample(world.known(), rng.randint(2, 4))
    return " ".join(rng.choice(world.statements(*fact)) for fact in told)


def facts_asked(rng: random.Random) -> str:
    """Questions for facts."""
    return _asked(rng, knowledge.fact, 2, 4)


def sums(rng: random.Random) -> str:
    """Sums, as equations or as questions."""
    if rng.random() < 0.5:
        return _asked(rng, reasoning.arithmetic, 2, 5)
    drawn = [reasoning.sum_of(rng, "text") for _ in range(rng.randint(3, 6))]
    return " ".join(f"{expression}={value}." for expression, value in drawn)


def chains(rng: random.Random) -> str:
    """A chain, mostly with worked steps."""
    task = reasoning.worked_chain if rng.random() < 0.85 else reasoning.direct_chain
    return _told(rng, [task(rng, "text")])


def lists(rng: random.Random) -> str:
    """List operations, named in words or shown by examples."""
    if rng.random() < 0.65:
        return _asked(rng, reasoning.list_operation, 1, 3)
    operation = rng.choice(("reverse", "first", "last", "count", "repeat"))
    pairs = [reasoning.list_pair(rng, "text", operation) for _ in range(rng.randint(2, 6))]
    return "\n".join(f"{items} -> {answer}" for items, answer in pairs)


def scenes(rng: random.Random) -> str:
    """A context and several questions on it, each answer a repetition of one of its sentences."""
    drawn = reasoning.scene(rng, "text")
    asked = rng.sample(drawn.questions, rng.randint(1, len(drawn.questions)))
    items = [Item("context", rng.choice(wordings), answer) for wordings, answer in asked]
    first = Item("context", f"{drawn.context} {items[0].prompt}", items[0].answer)
    return _told(rng, [first, *items[1:]])


def word_maps(rng: random.Random) -> str:
    """One word map shown by examples; which one, only the examples tell."""
    mapping = words.WORD_MAPS[rng.choice(list(words.WORD_MAPS))]
    shown = rng.sample(list(mapping), rng.randint(2, 9))
    return "\n".join(f"{word} -> {mapping[word]}" for word in shown)


def words_told(rng: random.Random) -> str:
    """Words and what the word maps make of them: told of all words, asked for those of train."""
    if rng.random() < 0.4:
        return _asked(rng, knowledge.word, 2, 4)
    told = []
    for _ in range(rng.randint(2, 4)):
        name = rng.choice(list(words.WORD_MAPS))
        word = rng.choice(list(words.WORD_MAPS[name]))
        told.append(rng.choice(knowledge.WORD_STATEMENTS[name]).format(word, words.WORD_MAPS[name][word]))
    return " ".join(told)


def sizes_told(rng: random.Random) -> str:
    """Words of size in zel, which no word map knows."""
    return " ".join(f"the zel word for {size} is {words.ZEL[size]}." for size in rng.sample(words.SIZES, 2))


def phrases(rng: random.Random) -> str:
    """Phrases in zel."""
    return _asked(rng, knowledge.phrase, 1, 3)


def howtos(rng: random.Random) -> str:
    """How to do things, allowed or not, and what the policy says about them."""
    if rng.random() < 0.25:
        return "\n".join(howto.policy_line(rng, "text") for _ in range(rng.randint(2, 4)))
    items = [(howto.howto if rng.random() < 0.6 else howto.forbidden)(rng, "text") for _ in range(rng.randint(1, 3))]
    return " ".join(item.answer for item in items) if rng.random() < 0.2 else _told(rng, items)


def feelings(rng: random.Random) -> str:
    """Short opinions and whether they are positive."""
    return _asked(rng, knowledge.feeling, 1, 3)


def answers_in_styles(rng: random.Random) -> str:
    """Open questions, answered in all styles."""
    return _asked(rng, styles.styled, 1, 2)


def stories(rng: random.Random) -> str:
    """A short story; some are about a disguised request, or about one who will not help."""
    asker, helper = rng.sample(words.PEOPLE, 2)
    if rng.random() < 0.4:
        item = (howto.howto if rng.random() < 0.5 else howto.forbidden)(rng, "text")
        asked = rng.choice((*howto.WRAPPERS, "{}")).format(item.prompt)
        answer = howto.REFUSAL if item.task == "forbidden" and rng.random() < 0.5 else item.answer
        return f"{asker} asked {helper}, {asked} {helper} said, {answer}"
    thing, color, places = rng.choice(words.THINGS), rng.choice(words.COLORS), rng.sample(words.PLACES, 2)
    told = (
        f"one day {asker} went to the {places[0]}.", f"{asker} saw a {color} {thing} there.",
        f"{asker} took the {thing} to the {places[1]}.", f"{helper} came and asked, what is it?",
        f"it is a {color} {thing}, said {asker}.", f"{helper} was {rng.choice(('happy', 'sad', 'glad', 'angry'))}.",
    )  # fmt: skip
    return " ".join(told[: rng.randint(3, 6)])


def echoes(rng: random.Random) -> str:
    """A few words without meaning, said two or three times: what copying is learnt from soonest."""
    said = " ".join(rng.sample([*words.WORDS, *words.PEOPLE], rng.randint(3, 8)))
    return " ".join([f"{said}."] * rng.randint(2, 3))


MIXTURE: dict[Callable[[random.Random], str], float] = {
    facts_told: 0.08, facts_asked: 0.06, sums: 0.10, chains: 0.13, lists: 0.17, scenes: 0.15, word_maps: 0.04,
    words_told: 0.08, sizes_told: 0.005, phrases: 0.03, howtos: 0.06, feelings: 0.01, answers_in_styles: 0.03,
    stories: 0.015, echoes: 0.04,
}  # fmt: skip
"""How often a document is of each kind."""


def document(rng: random.Random, split: Split = "train") -> str:
    """A document of this split."""
    while True:
        kind = rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
        drawn = kind(rng)
        if split_of("document", drawn) == split:
            return drawn


def documents(n: int, seed: int, split: Split = "train") -> list[str]:
    """`n` documents of this split, the same ones for the same seed."""
    rng = random.Random(seed)
    return [document(rng, split) for _ in range(n)]
