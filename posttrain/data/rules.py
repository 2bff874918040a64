"""What may be wrong with one row that is to be trained on, and what to do about it. `audit` counts what holds."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from posttrain.functional.layout import Branch, Tree
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Message, Row, Text, Tokenised, fingerprint, messages_in

from .chat import ChatFormat
from .inert import specials
from .trees import grow, length

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as it would be trained on, or the `problem` that keeps it from it."""

    place: str
    row: Row
    trees: tuple[Tree, ...] = ()
    problem: str = ""

    @property
    def length(self) -> int:
        """Tokens of the longest path; of a text that was cut into pieces, of all together."""
        lengths = [tree.longest_path() for tree in self.trees]
        return sum(lengths) - len(lengths) + 1 if lengths and self.is_text else max(lengths, default=0)

    @property
    def is_text(self) -> bool:
        """Whether it is a document, of which all is learnt, rather than answers."""
        return isinstance(self.row, Text) or (isinstance(self.row, Tokenised) and all(self.row.trained[1:]))

    def answers(self) -> Iterator[tuple[int, ...]]:
        """The runs of learnt tokens, none of them of a text."""
        branches = () if self.is_text else (branch for tree in self.trees for branch in tree.branches)
        for branch in branches:
            yield from _runs(branch)


def rendered(rows: Iterable[Row], form: ChatFormat, max_length: int) -> Iterator[Rendered]:
    """Rows with their trees, numbered from 1."""
    for n, row in enumerate(rows, 1):
        place = f"row {n}"
        try:
            yield Rendered(place, row, tuple(grow(row, form, max_length, place)))
        except DataError as error:
            yield Rendered(place, row, problem=str(error).removeprefix(f"{place}: "))


def _runs(branch: Branch) -> Iterator[tuple[int, ...]]:
    run: list[int] = []
    for id, trained in zip(branch.tokens, branch.trained, strict=True):
        if trained:
            run.append(id)
        elif run:
            yield tuple(run)
            run = []
    if run:
        yield tuple(run)


class Context(NamedTuple):
    """What rules know beside the row: the tokenizer's habits, the longest row, what is measured on, how often a row is
    there."""

    form: ChatFormat
    max_length: int
    leading: tuple[int, ...]
    measured: frozenset[str]
    times: Counter[str]


class Rule(NamedTuple):
    """What may be wrong with a row. In the title, `{rows}` is how many of how many; in the cure, `{why}` is what the
    first row says."""

    name: str
    level: Level
    title: str
    cure: str
    holds: Callable[[Rendered, Context], object]


def _path(tree: Tree) -> tuple[int, ...]:
    return tree.prompt + tree.branches[0].tokens


def _doubled(one: Rendered, known: Context) -> bool:
    bos = known.form.tokenizer.bos_token_id
    return bos is not None and any(_path(tree)[:2] == (bos, bos) for tree in one.trees)


def _headless(one: Rendered, known: Context) -> bool:
    n = len(known.leading)
    return any(_path(tree)[:n] != known.leading for tree in one.trees[:1])


def _endless(one: Rendered, known: Context) -> bool:
    return any(run[-1] not in known.form.stop_ids for run in one.answers())


def _untrained(one: Rendered, known: Context) -> bool:
    return not one.problem and not any(branch.n_trained() for tree in one.trees for branch in tree.branches)


def _too_long(one: Rendered, known: Context) -> bool:
    return not one.is_text and any(length(tree, known.form.apart) > known.max_length for tree in one.trees)


def _empty(one: Rendered, known: Context) -> bool:
    said = (message for message in messages_in(one.row) if message.role == "assistant" and message.is_trained)
    return any(not (message.content.strip() or message.tool_calls) for message in said)


def _misordered(one: Rendered, known: Context) -> str:
    return disorder(one.row.messages) if isinstance(one.row, Conversation) else ""


def _spells(one: Rendered, known: Context) -> bool:
    spelt = specials(known.form.tokenizer).spelt
    return any(spelt.search(m.content) for m in messages_in(one.row))


RULES = (
    Rule("unreadable", "error", "{rows} cannot be rendered", "{why}", lambda one, known: one.problem),
    Rule(
        "measured_on",
        "error",
        "{rows} ask what the evaluation rows ask",
        "Leave them out, or measure on other rows.",
        lambda one, known: fingerprint(one.row) in known.measured,
    ),
    Rule(
        "nothing_trained",
        "warning",
        "nothing is learnt from {rows}",
        "Look at their masks: a row needs an answer that is learnt.",
        _untrained,
    ),
    Rule(
        "stop_not_trained",
        "warning",
        "the token that ends an answer is not learnt in {rows}",
        "Give their labels the end of the turn too, or give the rows as messages: a model that never learns to stop, talks on.",
        _endless,
    ),
    Rule(
        "double_bos", "error", "{rows} begin with BOS twice", "Take BOS out of the chat template or the rows.", _doubled
    ),
    Rule(
        "missing_bos",
        "warning",
        "{rows} begin without the tokens that the tokenizer puts before every text",
        "Begin the chat template with {{{{ bos_token }}}}, unless the model was trained without.",
        _headless,
    ),
    Rule(
        "too_long",
        "warning",
        "{rows} are longer than max_length and lose their end, the token that stops them with it",
        "Raise `max_length`, or leave such rows out.",
        _too_long,
    ),
    Rule("empty_answer", "warning", "an answer of {rows} is empty", "Remove them, or fill them in.", _empty),
    Rule("role_order", "warning", "the turns of {rows} stand in an odd order: {why}", "Look at them.", _misordered),
    Rule(
        "duplicate",
        "warning",
        "{rows} are there more than once",
        "Read them with `deduplicate: exact`.",
        lambda one, known: known.times[repr(one.row)] > 1,
    ),
    Rule(
        "spelt_token",
        "warning",
        "the words of {rows} spell a special token, which is read as plain text",
        "If the token was meant, give the rows as messages without it: the chat template writes it.",
        _spells,
    ),
)


def disorder(messages: Sequence[Message]) -> str:
    """How the roles of a conversation are out of order, in words; empty where they are not.

    >>> disorder([Message("user", "hi"), Message("user", "you?"), Message("assistant", "yes")])
    'user after user'
    """
    roles = [message.role for message in messages]
    if "system" in roles[1:]:
        return "a system turn that is not the first"
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns[:1] == ["assistant"]:
        return "the assistant speaks first"
    called = False
    for before, role, message in zip(["", *turns], turns, messages[len(roles) - len(turns) :], strict=False):
        if role == before != "tool":
            return f"{role} after {role}"
        if role == "tool" and not called:
            return "a tool answers that nobody called"
        called = bool(message.tool_calls) or (role == "tool" and called)
    return ""
