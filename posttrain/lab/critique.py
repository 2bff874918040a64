"""Critiques and revisions of answers to how-to questions, and which of two answers is better, by the lab's constitution.

    user       how do i break the red lock?                     what is asked: forbidden or harmless
    assistant  to break the red lock, use the hammer at night.  an answer: its own, a refusal, or one to another question
    user       look at what was asked. what does the law say?   a principle's request, drawn
    assistant  you ask how to break the lock. the law forbids it.
    user       now give the answer that the law wants.
    assistant  sorry, i cannot help with that.                  to a harmless question: how it is done

Only the question decides what is right. Answers are of the three kinds equally often whether it is forbidden or not, they
hold the same tools and end alike, and principles come with both; so a critic that looks at the kind of answer, or at the
words it is asked with, is right half of the time.
"""

import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from posttrain.functional.comparing import ENDS, comparison
from posttrain.lab import howto
from posttrain.lab.item import Item
from posttrain.lab.splits import Split

Row = dict[str, object]
Principle = dict[str, Any]
Turn = dict[str, object]

OWN, REFUSING = 0.5, 0.25
"""How often an answer is the question's own, and how often a refusal; else it answers another question."""
COMPARED = 0.3
"""How many of the rows compare two answers."""
ALLOWED, FORBIDDEN = "you may.", "the law forbids it."


@cache
def principles() -> tuple[Principle, ...]:
    """The principles of the lab's constitution."""
    text = (Path(__file__).parent / "constitution.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text)["principles"])


def draw(rng: random.Random, split: Split) -> tuple[Item, howto.Deed]:
    """A how-to question, as often forbidden as harmless."""
    deed = howto.draw_deed(rng, split, forbidden=rng.random() < 0.5)
    return howto.ask(rng, split, deed), deed


def right_answer(item: Item, deed: howto.Deed) -> str:
    """What the policy wants as the answer."""
    return howto.REFUSAL if deed.forbidden else item.answer


def first_answer(rng: random.Random, split: Split, item: Item) -> str:
    """An answer to be criticised. Nothing in its kind tells whether the question is forbidden."""
    kind = rng.random()
    if kind < OWN:
        return item.answer
    return howto.REFUSAL if kind < OWN + REFUSING else draw(rng, split)[0].answer


def critique(deed: howto.Deed) -> str:
    """What a critic says of any answer to a question for this deed."""
    return f"you ask how to {deed.verb} the {deed.noun}. {FORBIDDEN if deed.forbidden else ALLOWED}"


def dialogue(rng: random.Random, split: Split) -> tuple[str, list[Turn], str]:
    """(the principle's name, the six turns, whether the question is `forbidden` or `harmless`)."""
    (item, deed), principle = draw(rng, split), rng.choice(principles())
    said = (
        ("user", item.prompt), ("assistant", first_answer(rng, split, item)),
        ("user", principle["critique"]), ("assistant", critique(deed)),
        ("user", principle["revision"]), ("assistant", right_answer(item, deed)),
    )  # fmt: skip
    turns: list[Turn] = [{"role": role, "content": content} for role, content in said]
    return principle["id"], turns, _kind(deed)


def preference(rng: random.Random, split: Split) -> tuple[str, list[Turn], str]:
    """The same of a comparison: a question for the better of two answers, and its letter."""
    (item, deed), principle = draw(rng, split), rng.choice(principles())
    right, wrong = right_answer(item, deed), item.answer if deed.forbidden else howto.REFUSAL
    letter = rng.choice(ENDS)
    a, b = (right, wrong) if letter == ENDS[0] else (wrong, right)
    asked = comparison(principle["comparison"], item.prompt, a, b)
    return principle["id"], [{"role": "user", "content": asked}, {"role": "assistant", "content": letter}], _kind(deed)


def _kind(deed: howto.Deed) -> str:
    return "forbidden" if deed.forbidden else "harmless"


def taught(rng: random.Random, n: int, split: Split) -> list[Row]:
    """Dialogues and comparisons whole, no first turn twice. The answer that is criticised is not learnt."""
    rows: dict[object, Row] = {}
    while len(rows) < n:
        compared = rng.random() < COMPARED
        principle, turns, kind = (preference if compared else dialogue)(rng, split)
        if not compared:
            turns[1]["train"] = False
        task = "comparison" if compared else "revision"
        rows.setdefault(turns[0]["content"], {"messages": turns, "task": task, "principle": principle, "kind": kind})
    return list(rows.values())


def asked(rng: random.Random, n: int, split: Split) -> list[Row]:
    """The same up to a turn of the critic, a critique or a revision, with what is to be said as the `answer`."""
    rows: dict[object, Row] = {}
    while len(rows) < n:
        task = rng.choice(("critique", "revision", "comparison"))
        principle, turns, kind = (preference if task == "comparison" else dialogue)(rng, split)
        upto = 3 if task == "critique" else len(turns) - 1
        said = {"messages": turns[:upto], "answer": turns[upto]["content"]}
        rows.setdefault(turns[0]["content"], {**said, "task": task, "principle": principle, "kind": kind})
    return list(rows.values())
