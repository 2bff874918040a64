"""From the layout of a file to the shape that a method reads.

A row is parsed into what it is by nature, then converted: a pair is a conversation by its chosen answer, and two
labelled answers; a ranking is all its pairs; a conversation is a prompt whose answer is its last message.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.schema.errors import DataError
from posttrain.schema.rows import (
    Answered,
    Conversation,
    Labelled,
    Messages,
    Pair,
    Prompt,
    Ranked,
    Row,
    Text,
    prompt_messages,
)

from .cells import Cells, LeftOut, asked
from .columns import ALIASES, Roles, filled, find_roles, given_roles, is_pattern, named
from .judged import Steps, are_lists, thumb
from .layouts import ASIDE, LAYOUTS, Layout, Nature
from .record import NotReadable
from .tools import tools_of


def _as_conversation(row: Nature, cells: Cells) -> tuple[Row, ...]:
    match row:
        case Conversation(messages=messages, tools=tools, template_options=options):
            return (Conversation(messages, cells.text("task"), tools, options),)
        case (
            Pair(prompt=prompt, chosen=answer, tools=tools)
            | Labelled(prompt=prompt, completion=answer, good=True, tools=tools)
        ):
            return (Conversation(prompt + answer, cells.text("task"), tools),)
        case Ranked(prompt=prompt, answers=(best, *_), tools=tools):
            return (Conversation(prompt + best, cells.text("task"), tools),)
        case Steps(prompt=prompt, steps=steps, right=right) if all(right):
            return (Conversation(prompt + row.upto(len(steps)), cells.text("task")),)
        case Labelled():
            raise LeftOut("the answer has a thumb down")
        case Steps():
            raise LeftOut("a step is wrong")
    return _itself(row, "the last message is not the assistant's")


def _itself(row: Nature, why_not: str) -> tuple[Row, ...]:
    """A row that is of the shape already, or token ids in its place. Raises LeftOut for what cannot become it."""
    if isinstance(row, Prompt | Ranked | Steps):
        raise LeftOut(why_not)
    return (row,)


def _as_labelled(row: Nature, cells: Cells) -> tuple[Row, ...]:
    match row:
        case Pair(prompt=prompt, chosen=chosen, rejected=rejected, tools=tools):
            return (Labelled(prompt, chosen, True, tools), Labelled(prompt, rejected, False, tools))
        case Steps():
            return row.labelled()
    return _itself(row, "it has no thumb")


def _as_pair(row: Nature, cells: Cells) -> tuple[Row, ...]:
    if isinstance(row, Ranked):
        if not (pairs := row.pairs()):
            raise LeftOut("all answers are equally good")
        return pairs
    return _itself(row, "it has no second answer")


def _as_ranked(row: Nature, cells: Cells) -> tuple[Row, ...]:
    match row:
        case Pair(margin=float(margin)) if margin <= 0:
            raise LeftOut("the chosen answer is not better: its margin is not above 0")
        case Pair(prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, tools=tools, probability=probability):
            grades = (1.0 if margin is None else margin, 0.0)
            return (Ranked(prompt, (chosen, rejected), grades, tools, probability),)
        case Ranked(grades=grades) if len(set(grades)) > 1:
            return (row,)
        case Ranked():
            raise LeftOut("all answers are equally good")
    return _itself(row, "it has no second answer")


def _as_prompt(row: Nature, cells: Cells) -> tuple[Row, ...]:
    return (_prompt(row, cells, _last_answer(row)),)


def _as_answered(row: Nature, cells: Cells) -> tuple[Row, ...]:
    if not isinstance(row, Conversation):
        raise LeftOut("the last message is not the assistant's")
    return (Answered(_prompt(row, cells, None), row.messages[-1]),)


def _prompt(row: Nature, cells: Cells, right: str | None) -> Prompt:
    """What a row asks; `right` is the answer to compare with where no column holds one."""
    answer = right if cells.get("answer") is None else cells.text("answer")
    plain = None if cells.get("plain") is None else cells.text("plain")
    others = {name: value for name, value in cells.columns.items() if name not in cells.roles.values()}
    told = (cells.tools(), cells.template_options())
    return Prompt(asked(_asked_in(row)), answer, cells.text("task"), plain, others, *told)


def _asked_in(row: Nature) -> Messages:
    return row.prompt if isinstance(row, Ranked | Steps) else prompt_messages(row)


def _last_answer(row: Nature) -> str | None:
    match row:
        case Conversation(messages=(*_, last)) | Pair(chosen=(last,)) | Labelled(completion=(last,), good=True):
            return last.content
        case Ranked(answers=((last,), *_)):
            return last.content
    return None


def _as_text(row: Nature, cells: Cells) -> tuple[Row, ...]:
    return _itself(row, "it has no text")


CONVERSIONS: dict[type[Row], Callable[[Nature, Cells], tuple[Row, ...]]] = {
    Conversation: _as_conversation,
    Labelled: _as_labelled,
    Prompt: _as_prompt,
    Answered: _as_answered,
    Pair: _as_pair,
    Ranked: _as_ranked,
    Text: _as_text,
}


@dataclass(frozen=True)
class Recognised:
    """A layout and the columns that play its roles, for rows of one file. `patterns` are filled from several columns."""

    layout: Layout
    roles: Roles
    shape: type[Row]
    patterns: tuple[str, ...] = ()

    def convert(self, columns: Mapping[str, Any]) -> tuple[Row, ...]:
        """A row's columns as rows of the shape asked for. Raises NotReadable or LeftOut."""
        if self.patterns:
            columns = {**columns, **{pattern: filled(pattern, columns) for pattern in self.patterns}}
        cells = Cells(columns, self.roles)
        return CONVERSIONS[self.shape](self.layout.parse(cells), cells)


def recognise(sample: Sequence[Mapping[str, Any]], shape: type[Row], said: Mapping[str, str], place: str) -> Recognised:
    """How rows like the `sample` are read as `shape`; the user's map of columns goes first. Raises DataError."""
    columns = list(dict.fromkeys(name for row in sample for name in row))
    given = given_roles(said, columns, place)
    found = _believed(find_roles(name for name in columns if name not in given.values()), sample)
    aside = {role: found[role] for role in ASIDE if role in found}
    for roles in ({**aside, **given}, {**found, **given}) if given else (found,):
        for layout in LAYOUTS:
            if shape in layout.serves and layout.fits(roles):
                patterns = tuple(column for column in given.values() if is_pattern(column, columns))
                return Recognised(layout, layout.of(roles), shape, patterns)
    raise DataError(_unrecognised(columns, found, shape, place))


def _believed(found: dict[str, str], sample: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The roles without those that the cells do not bear out: labels of classes, answers that are one text."""

    def cells(role: str) -> list[Any]:
        return [row.get(found[role]) for row in sample] if role in found else []

    if are_lists(cells("completion")):  # answers in their order, as some tools write preferences
        found["answers"] = found.pop("completion")
    elif not are_lists(cells("answers")):
        found.pop("answers", None)
    if not _all_thumbs(cells("label")):
        found.pop("label", None)
    if not _all_tools(cells("tools")):
        found.pop("tools", None)
    return found


def _all_thumbs(labels: Iterable[Any]) -> bool:
    """Whether a column of labels is one of thumbs (and not of classes)."""
    return all(thumb(label) is not None for label in labels if label is not None)


def _all_tools(cells: Iterable[Any]) -> bool:
    try:
        return all(tools_of(cell) is not None for cell in cells)
    except (NotReadable, RecursionError):
        return False


NEEDED: dict[type[Row], tuple[str, tuple[str, ...]]] = {
    Text: ("text", ("text",)),
    Conversation: ("messages, or prompt and completion", ("prompt", "completion")),
    Pair: ("chosen and rejected, with prompt or messages", ("prompt", "chosen", "rejected")),
    Ranked: ("prompt and answers, best first, or chosen and rejected", ("prompt", "answers")),
    Labelled: ("prompt, completion and label (true or false)", ("prompt", "completion", "label")),
    Prompt: ("prompt or messages", ("prompt", "answer")),
    Answered: ("messages that end with the assistant's, or prompt and completion", ("prompt", "completion")),
}
"""Shape -> what it needs in words, and the roles that the example in an error names."""


def _unrecognised(columns: Sequence[str], found: Roles, shape: type[Row], place: str) -> str:
    known = next((layout.name for layout in LAYOUTS if layout.fits(found)), None)
    needed, roles = NEEDED[shape]
    example = ", ".join(f"{role}: {found.get(role) or _near(role, columns)}" for role in roles)
    return (
        f"{place} cannot be read as {shape.__name__}. Columns found: {named(columns)}"
        f"{f' (these are {known})' if known else ''}. Needed: {needed}. "
        f"Say which column is which, for example `columns: {{{example}}}`, or name other rows."
    )


def _near(role: str, columns: Sequence[str]) -> str:
    """The column whose name looks most like a role's names, else an ellipsis to fill in."""
    for alias in ALIASES[role]:
        if close := difflib.get_close_matches(alias, columns, 1, 0.7):
            return close[0]
    return "…"
