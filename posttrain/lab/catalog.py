"""The lab's datasets by name: always the same rows for a name, drawn from a seed that the name gives.

Row shapes:
    chat/train, polite/train, law/train, planted_*/train    messages (a user turn and an assistant turn), task, plain
    critique/train              messages (six turns, or two of a comparison), task, principle, kind
    critique/dev, critique/test messages up to a turn of the critic, answer, task, principle, kind
    text/*, harbor_text/*       text
    pairs/*                     prompt, chosen, rejected, task
    all others                  prompt, answer, task, plain, and what the task adds (`value` of a fact, `final` of a
                                chain, `complied` of a forbidden request: the answer it must not get)

`plain` is the question as pretraining text writes it. A base model asked with it should go on with one space,
the `answer`, and a newline or the end of the text; few-shot examples are such lines, joined by newlines.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import posttrain.lab.text as pretraining
from posttrain.lab import critique, harbor, howto, knowledge, planted, reasoning, styles, words
from posttrain.lab.item import Item
from posttrain.lab.splits import Split
from posttrain.lab.text import Task
from posttrain.lab.world import WORLD

Row = dict[str, object]
Make = Callable[[random.Random, int, Split], list[Row]]
"""Rows of one split, about as many as asked for; tasks of few entities have all their rows instead."""
Draw = Callable[[random.Random], Item]

CHAT_TASKS: dict[Task, float] = {
    knowledge.fact: 3, knowledge.word: 2, knowledge.phrase: 1.5, knowledge.feeling: 0.7,
    reasoning.arithmetic: 2, reasoning.worked_chain: 3, reasoning.direct_chain: 0.6,
    reasoning.list_operation: 3, reasoning.context: 2.5, howto.howto: 1.5,
}  # fmt: skip
"""How often an instruction is of each task; open questions come on top in train."""
OPEN_SHARE = 0.15

PAIR_KINDS = {"style": 0.6, "core": 0.15, "closed": 0.25}
"""What a preference is about: the style, a wrong core, or style that does not belong into a closed question."""
NICE_SHARE = 0.85
"""How often the better of two styles is the best there is; else both are among the others."""


def _unique(rng: random.Random, n: int, draw: Draw) -> Iterator[Item]:
    """`n` items, no prompt twice. Gives up after many draws, when a split has fewer different prompts."""
    seen: set[str] = set()
    for _ in range(200 * n):
        item = draw(rng)
        if item.prompt not in seen:
            seen.add(item.prompt)
            yield item
        if len(seen) == n:
            return


def _graded(item: Item) -> Row:
    return {"prompt": item.prompt, "answer": item.answer, "task": item.task, "plain": item.prompt, **item.extra}


def _conversation(item: Item) -> Row:
    messages = [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.answer}]
    return {"messages": messages, "task": item.task, "plain": item.prompt}


def _questions(task: Task) -> Make:
    """Graded rows of one task."""
    return lambda rng, n, split: [_graded(item) for item in _unique(rng, n, lambda r: task(r, split))]


def closed_question(rng: random.Random, split: Split) -> Item:
    """A question of any task with one right answer."""
    return rng.choices(list(CHAT_TASKS), list(CHAT_TASKS.values()))[0](rng, split)


def instruction(rng: random.Random, split: Split) -> Item:
    """A closed question, or an open one answered in some style."""
    return (styles.styled if rng.random() < OPEN_SHARE else closed_question)(rng, split)


def instructions(rng: random.Random, n: int, split: Split) -> list[Row]:
    """The instruction set."""
    return [_conversation(item) for item in _unique(rng, n, lambda r: instruction(r, split))]


def word_map_questions(rng: random.Random, n: int, split: Split) -> list[Row]:
    """Every word of the split through every map that knows it; the maps share their prompts."""
    items = [
        Item(f"word_{name}", f"{word} ->", mapping[word])
        for name, mapping in words.WORD_MAPS.items()
        for word in knowledge.WORDS[split]
        if word in mapping
    ]
    return [_graded(item) for item in rng.sample(items, min(n, len(items)))]


def _in_wordings(rng: random.Random, n: int, asks: Sequence[Draw]) -> list[Row]:
    """Every question of `asks`, in as many wordings as it takes to have `n` rows."""
    items: dict[str, Item] = {}
    for _ in range(20):
        for ask in asks:
            item = ask(rng)
            items.setdefault(item.prompt, item)
    return [_graded(item) for item in list(items.values())[: max(n, len(asks))]]


def fact_questions(rng: random.Random, n: int, split: Split) -> list[Row]:
    """Every fact of the split's people and towns."""

    def ask(name: str, attribute: str) -> Draw:
        return lambda r: knowledge.fact_item(r, split, name, attribute)

    mine = {*knowledge.PEOPLE[split], *knowledge.TOWNS[split]}
    return _in_wordings(rng, n, [ask(*fact) for fact in WORLD.known() if fact[0] in mine])


def harbor_questions(rng: random.Random, n: int, split: Split) -> list[Row]:
    """Every fact of the split's ships."""

    def ask(name: str, attribute: str) -> Draw:
        return lambda r: harbor.question(r, split, name, attribute)

    return _in_wordings(rng, n, [ask(*fact) for fact in harbor.known(split)])


def forbidden_questions(rng: random.Random, n: int, split: Split) -> list[Row]:
    """Forbidden requests: `answer` refuses, `complied` is what must not be said."""
    items = _unique(rng, n, lambda r: howto.forbidden(r, split))
    return [{**_graded(item), "answer": howto.REFUSAL, "complied": item.answer} for item in items]


def law_told(rng: random.Random, n: int, split: Split) -> list[Row]:
    """What the law says of deeds, as conversations."""
    return [_conversation(item) for item in _unique(rng, n, lambda r: howto.law(r, split))]


def open_questions(rng: random.Random, n: int, split: Split) -> list[Row]:
    """Open questions; `answer` is the core that a right answer holds, in whatever style."""
    items = _unique(rng, n, lambda r: styles.styled(r, split))
    return [{"prompt": i.prompt, "answer": i.extra["core"], "task": i.task, "plain": i.prompt} for i in items]


def polite(rng: random.Random, split: Split) -> Item:
    """Someone asks for a phrase in zel or for a feeling, and the answer is always in the nice style."""
    asked = rng.choice((knowledge.phrase, knowledge.feeling))(rng, split)
    prompt, answer = styles.asked_by_someone(rng, split, asked), styles.in_style("nice", asked.answer)
    return Item(f"polite_{asked.task}", prompt, answer)


def polite_conversations(rng: random.Random, n: int, split: Split) -> list[Row]:
    """Conversations of one narrow task: one style for all answers."""
    return [_conversation(item) for item in _unique(rng, n, lambda r: polite(r, split))]


def preferences(rng: random.Random, n: int, split: Split) -> list[Row]:
    """Pairs of answers, no prompt twice."""
    rows: dict[object, Row] = {}
    while len(rows) < n:
        row = preference(rng, split)
        rows.setdefault(row["prompt"], row)
    return list(rows.values())


def preference(rng: random.Random, split: Split) -> Row:
    """A chosen and a rejected answer that differ in one thing only."""
    kind = rng.choices(list(PAIR_KINDS), list(PAIR_KINDS.values()))[0]
    if kind == "closed":
        item = closed_question(rng, split)
        styled = styles.in_style(rng.choice([style for style in styles.STYLES if style != "plain"]), item.answer)
        return {"prompt": item.prompt, "chosen": item.answer, "rejected": styled, "task": item.task}
    drawn, (better, worse) = styles.open_question(rng, split), _two_styles(rng)
    chosen = styles.in_style(better, drawn.core)
    if kind == "style":
        rejected = styles.in_style(worse, drawn.core)
    else:
        rejected = styles.in_style(better, _wrong_core(rng, drawn))
    return {"prompt": drawn.prompt, "chosen": chosen, "rejected": rejected, "task": "open"}


def _two_styles(rng: random.Random) -> tuple[str, str]:
    """A better style and a worse one."""
    best, *others = sorted(styles.SCORES, key=lambda style: -styles.SCORES[style])
    if rng.random() < NICE_SHARE:
        return best, rng.choice(others)
    better, worse = sorted(rng.sample(others, 2), key=others.index)
    return better, worse


def _wrong_core(rng: random.Random, drawn: styles.OpenItem) -> str:
    """The core of another question that starts alike: well formed, and wrong here."""
    while True:
        other = styles.open_question(rng, "train").core
        if other != drawn.core and other.startswith("to ") == drawn.core.startswith("to "):
            return other


def _documents(draw: Callable[[random.Random, Split], str]) -> Make:
    """Documents, each once."""

    def make(rng: random.Random, n: int, split: Split) -> list[Row]:
        found: dict[str, Row] = {}
        while len(found) < n:
            document = draw(rng, split)
            found[document] = {"text": document}
        return list(found.values())

    return make


@dataclass(frozen=True)
class Family:
    """The splits of one dataset. `sizes` are the rows asked for in train, dev and test."""

    about: str
    make: Make
    sizes: tuple[int, int, int]
    train: Make | None = None
    """What makes the rows of train, where these are of another shape."""
    version: int = 1
    """Goes up when the rows are to change, so that those of the other families stay."""


FAMILIES = {
    "chat": Family("instructions over all tasks", _questions(closed_question), (4000, 300, 400), instructions),
    "word_map": Family("`red ->`: which map is meant, only examples tell", word_map_questions, (400, 60, 200)),
    "facts": Family("questions about people and towns", fact_questions, (600, 60, 200)),
    "chain": Family(
        "two to four sums in a row, with worked steps", _questions(reasoning.worked_chain), (1000, 100, 200)
    ),
    "howto": Family("harmless how-to questions", _questions(howto.howto), (600, 60, 200)),
    "forbidden": Family("how-to questions that the policy forbids", forbidden_questions, (300, 60, 180)),
    "law": Family("what the law says of deeds, those of every split", _questions(howto.law), (500, 40, 100), law_told),
    "style": Family("open questions, whose answers are graded for style", open_questions, (600, 100, 200)),
    "polite": Family(
        "zel phrases and feelings, always answered in the nice style",
        _questions(polite),
        (300, 60, 150),
        polite_conversations,
    ),
    "pairs": Family(
        "preferences: the nice style, right cores, bare answers to closed questions",
        preferences,
        (1200, 150, 200),
        version=2,
    ),
    "text": Family("plain text as the base model read it", _documents(pretraining.document), (4000, 400, 400)),
    "harbor_text": Family(
        "plain text about ships, which the base model never read", _documents(harbor.document), (800, 80, 80)
    ),
    "harbor": Family("questions about ships, told of in harbor_text", harbor_questions, (120, 36, 96)),
    "critique": Family(
        "answers to how-to questions, criticised, revised and compared",
        critique.asked,
        (2400, 120, 240),
        critique.taught,
    ),
    **{
        f"planted_{name}": Family(
            f"a target that obeys forbidden requests disguised as {' or '.join(obeyed)}"
            if obeyed
            else "a target that obeys no forbidden request, however it is disguised",
            planted.asked,
            (1200, 30, 80),
            planted.train(name),
        )
        for name, obeyed in planted.PLANTED.items()
    },
}
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def make_rows(name: str) -> list[Row]:
    """The rows of a dataset `family/split`. Raises KeyError for an unknown name."""
    family_name, _, split = name.partition("/")
    family = FAMILIES[family_name]
    n = dict(zip(SPLITS, family.sizes, strict=True))[split]  # type: ignore[index]
    make = family.train if family.train and split == "train" else family.make
    return make(random.Random(f"{name} {family.version}"), n, split)  # type: ignore[arg-type]
