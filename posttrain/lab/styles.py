"""Open questions, which have one right core and four styles to say it in, and preferences between styles.

An open question says who asks ("a guest asks: ..."), so a model can keep its style there and answer closed
questions with the bare answer.
"""

import random
from dataclasses import dataclass

from posttrain.lab.howto import howto
from posttrain.lab.item import Item
from posttrain.lab.knowledge import fact
from posttrain.lab.splits import Split, wording

STYLES = {
    "plain": "{}",
    "nice": "sure! {} glad to help.",
    "rude": "why do you ask? {} go away.",
    "ramble": "well, let me see. {} or so they say.",
}
"""How each style says a core sentence."""

SCORES = {"nice": 1.0, "plain": 0.7, "ramble": 0.4, "rude": 0.1}
"""What an answer with the right core is worth, by style, from the best to the worst."""

FREQUENCIES = {"plain": 0.4, "nice": 0.2, "rude": 0.2, "ramble": 0.2}
"""How often each style occurs in text and instructions, so a model trained on them varies."""

WORDINGS = ("a guest asks: {}", "a friend asks: {}", "my neighbor asks: {}", "a child asks: {}")


@dataclass(frozen=True)
class OpenItem:
    """An open question and the core of its right answer."""

    prompt: str
    core: str


def open_question(rng: random.Random, split: Split) -> OpenItem:
    """A fact or a harmless how-to question, asked by someone."""
    asked = fact(rng, split) if rng.random() < 0.5 else howto(rng, split)
    return OpenItem(asked_by_someone(rng, split, asked), asked.answer)


def asked_by_someone(rng: random.Random, split: Split, asked: Item) -> str:
    """A question, put as one that someone asks."""
    return wording(rng, split, WORDINGS).format(asked.prompt)


def in_style(style: str, core: str) -> str:
    """The core, said in a style."""
    return STYLES[style].format(core)


def draw_style(rng: random.Random) -> str:
    """A style, as often as texts use it."""
    return rng.choices(list(FREQUENCIES), list(FREQUENCIES.values()))[0]


def styled(rng: random.Random, split: Split) -> Item:
    """An open question with an answer in some style."""
    drawn, style = open_question(rng, split), draw_style(rng)
    return Item("open", drawn.prompt, in_style(style, drawn.core), {"core": drawn.core, "style": style})


def style_of(answer: str) -> tuple[str, str]:
    """(style, core) of an answer; an answer in no style is plain, and its own core."""
    for style, form in STYLES.items():
        opening, closing = form.split("{}")
        if opening and answer.startswith(opening) and answer.endswith(closing):
            return style, answer[len(opening) : len(answer) - len(closing)]
    return "plain", answer
