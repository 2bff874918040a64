"""Tasks that are worked out: sums, chains of sums with worked steps, lists, questions on a given context.

Every task is a function `(rng, split) -> Item`. Sums of train, dev and test have different operands; a sum of
dev or test occurs in no pretraining text either, not even as a step of a chain (doubling, a table of 46 rows,
is not split).
"""

import random
from dataclasses import dataclass

from posttrain.lab import words
from posttrain.lab.item import Item
from posttrain.lab.splits import Split, allowed, wording

SUM_WORDINGS = ("what is {}?", "how much is {}?", "tell me {}.", "work out {}.")
STEPS_WORDINGS = ("think step by step.", "show your steps.", "go one step at a time.", "work through the steps.")
DIRECT_WORDINGS = ("only give the answer.", "answer at once.", "give no steps.", "just the answer.")
LIST_WORDINGS = {
    "reverse": ("reverse these words: {}.", "say these words backwards: {}.", "turn around: {}.",
                "from last to first: {}."),
    "first": ("what is the first word of {}?", "give the first of these: {}.", "tell me the first word: {}.",
              "which word comes first: {}?"),
    "last": ("what is the last word of {}?", "give the last of these: {}.", "tell me the last word: {}.",
             "which word comes last: {}?"),
    "count": ("how many words are these: {}?", "count these words: {}.", "tell me how many: {}.",
              "what is the number of words in {}?"),
    "repeat": ("say this twice: {}.", "repeat these words: {}.", "say two times: {}.", "say it again: {}."),
    "sort": ("sort these words: {}.", "put in order: {}.", "tell me in order: {}.", "from a to z: {}."),
}  # fmt: skip
"""Each closes with a mark, so that a list and the answer behind it cannot run together in plain text."""
LIST_LENGTHS = {"reverse": (2, 4), "first": (2, 5), "last": (2, 5), "count": (2, 6), "repeat": (1, 3), "sort": (2, 3)}

Step = tuple[str, int]


def operands_allowed(split: Split, left: int, sign: str, right: int) -> bool:
    """Whether this sum may be asked in `split`."""
    return allowed(split, "sum", left, sign, right)


def sum_of(rng: random.Random, split: Split) -> tuple[str, int]:
    """An addition or subtraction of a number up to 99 and a digit, and its value."""
    while True:
        left, sign, right = rng.randint(0, 99), rng.choice("+-"), rng.randint(0, 9)
        value = left + right if sign == "+" else left - right
        if 0 <= value <= 99 and operands_allowed(split, left, sign, right):
            return f"{left}{sign}{right}", value


def arithmetic(rng: random.Random, split: Split) -> Item:
    """One sum."""
    expression, value = sum_of(rng, split)
    return Item("arithmetic", wording(rng, split, SUM_WORDINGS).format(expression), str(value))


@dataclass(frozen=True)
class Chain:
    """A number and what is done to it, step by step."""

    start: int
    steps: tuple[Step, ...]

    def question(self) -> str:
        """The chain as a task in words."""
        said = " ".join("double it." if verb == "double" else f"{verb} {n}." for verb, n in self.steps)
        return f"start with {self.start}. {said} what do you have?"

    def worked(self) -> tuple[str, int]:
        """Every step, restated and computed ("add 3: 14+3=17."), and the last value."""
        value, lines = self.start, []
        for verb, n in self.steps:
            sign, operand = ("-" if verb == "take" else "+"), (value if verb == "double" else n)
            result = value - operand if sign == "-" else value + operand
            told = "double it" if verb == "double" else f"{verb} {n}"
            lines.append(f"{told}: {value}{sign}{operand}={result}.")
            value = result
        return " ".join(lines), value


def chain(rng: random.Random, split: Split, n_steps: int | None = None) -> Chain:
    """A chain of 2-4 steps (or `n_steps`) that stays within 0-99; text and train use their own sums only."""
    while True:
        drawn = _draw_chain(rng, split, n_steps or rng.randint(2, 4))
        if drawn is not None and allowed(split, "chain", drawn):
            return drawn


def _draw_chain(rng: random.Random, split: Split, n_steps: int) -> Chain | None:
    start = value = rng.randint(2, 30)
    steps: list[Step] = []
    for _ in range(n_steps):
        verb, n = rng.choice(("add", "add", "take", "take", "double")), rng.randint(1, 9)
        sign, operand = ("-" if verb == "take" else "+"), (value if verb == "double" else n)
        result = value - operand if sign == "-" else value + operand
        told_before = split in ("text", "train") and verb != "double"
        if not 0 <= result <= 99 or (told_before and not operands_allowed(split, value, sign, n)):
            return None
        steps.append((verb, 0 if verb == "double" else n))
        value = result
    return Chain(start, tuple(steps))


def worked_chain(rng: random.Random, split: Split, n_steps: int | None = None) -> Item:
    """A chain to answer with its worked steps."""
    drawn = chain(rng, split, n_steps)
    steps, value = drawn.worked()
    asked = f"{drawn.question()} {wording(rng, split, STEPS_WORDINGS)}"
    return Item("chain", asked, f"{steps} answer: {value}", {"final": str(value), "steps": str(len(drawn.steps))})


def direct_chain(rng: random.Random, split: Split, n_steps: int | None = None) -> Item:
    """A chain to answer at once, which a small model can hardly do."""
    drawn = chain(rng, split, n_steps)
    asked = f"{drawn.question()} {wording(rng, split, DIRECT_WORDINGS)}"
    value = str(drawn.worked()[1])
    return Item("chain_direct", asked, f"answer: {value}", {"final": value, "steps": str(len(drawn.steps))})


def apply_list_operation(operation: str, items: list[str]) -> str:
    """What a list operation makes of a list of words."""
    match operation:
        case "reverse":
            return " ".join(reversed(items))
        case "first":
            return items[0]
        case "last":
            return items[-1]
        case "count":
            return words.NUMBERS[len(items)]
        case "repeat":
            return " ".join(items * 2)
        case "sort":
            return " ".join(sorted(items))
    raise AssertionError(operation)


def list_pair(rng: random.Random, split: Split, operation: str) -> tuple[str, str]:
    """A list of words and what the operation makes of it."""
    while True:
        items = rng.sample(words.WORDS, rng.randint(*LIST_LENGTHS[operation]))
        if allowed(split, "list", operation, *items):
            return " ".join(items), apply_list_operation(operation, items)


def list_operation(rng: random.Random, split: Split) -> Item:
    """A list of words and what to do with it."""
    operation = rng.choice(list(LIST_WORDINGS))
    items, answer = list_pair(rng, split, operation)
    return Item(f"list_{operation}", wording(rng, split, LIST_WORDINGS[operation]).format(items), answer)


def list_map(rng: random.Random, split: Split) -> Item:
    """A list operation as `a b c ->`: only examples can tell which one is meant."""
    operation = rng.choice(("reverse", "first", "last", "count", "repeat"))
    items, answer = list_pair(rng, split, operation)
    return Item(f"list_{operation}", f"{items} ->", answer)


Question = tuple[tuple[str, ...], str]
"""The wordings of a question, and its answer."""


@dataclass(frozen=True)
class Scene:
    """A context of two to four sentences, and every question that it answers."""

    context: str
    questions: tuple[Question, ...]


def scene(rng: random.Random, split: Split) -> Scene:
    """Who has which thing, where the things are, or which color they have."""
    while True:
        sentences, questions = rng.choice((_belongings, _belongings, _properties))(rng, rng.randint(2, 4))
        if allowed(split, "scene", *sentences):
            return Scene(" ".join(sentences), tuple(questions))


def _belongings(rng: random.Random, n: int) -> tuple[list[str], list[Question]]:
    """n sentences about who has what, and two questions on each."""
    sentences: list[str] = []
    questions: list[Question] = []
    for who, what in zip(rng.sample(words.PEOPLE, n), rng.sample(words.THINGS, n), strict=True):
        said = f"{who} has the {what}."
        thing = (f"what does {who} have?", f"which thing does {who} have?", f"tell me what {who} has.")
        person = (f"who has the {what}?", f"which person has the {what}?", f"tell me who has the {what}.")
        sentences.append(said)
        questions += [(thing, said), (person, said)]
    return sentences, questions


def _properties(rng: random.Random, n: int) -> tuple[list[str], list[Question]]:
    """n sentences about where things are, or which color they have, and a question on each."""
    things, in_places = rng.sample(words.THINGS, n), rng.random() < 0.5
    sentences: list[str] = []
    questions: list[Question] = []
    for thing, value in zip(things, rng.sample(words.PLACES if in_places else words.COLORS, n), strict=True):
        said = f"the {thing} is in the {value}." if in_places else f"the {thing} is {value}."
        place = (f"where is the {thing}?", f"in which place is the {thing}?", f"tell me where the {thing} is.")
        color = (f"what color is the {thing}?", f"which color has the {thing}?", f"tell me the color of the {thing}.")
        sentences.append(said)
        questions.append((place if in_places else color, said))
    return sentences, questions


def context(rng: random.Random, split: Split) -> Item:
    """A question on a given context, answered by repeating the sentence that holds it."""
    drawn = scene(rng, split)
    wordings, answer = rng.choice(drawn.questions)
    return Item("context", f"{drawn.context} {wording(rng, split, wordings)}", answer)
