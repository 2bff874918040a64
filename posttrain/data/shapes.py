"""From the layout of a file to the shape that a method reads.

A row is parsed into what it is by nature, then converted: a pair is a conversation by its chosen answer, and two
labelled answers; a conversation is a prompt whose answer is its last message.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Labelled, Pair, Prompt, Row, Text, prompt_messages

from .columns import ALIASES, Roles, find_roles, given_roles, named
from .layouts import ASIDE, LAYOUTS, Cells, Layout, LeftOut, asked, thumb


def _as_conversation(row: Row, cells: Cells) -> tuple[Row, ...]:
    match row:
        case Conversation(messages=messages):
            return (Conversation(messages, cells.text("task")),)
        case Pair(prompt=prompt, chosen=answer) | Labelled(prompt=prompt, completion=answer, good=True):
            return (Conversation(prompt + answer, cells.text("task")),)
        case Labelled():
            raise LeftOut("the answer has a thumb down")
    raise LeftOut("the last message is not the assistant's")


def _as_labelled(row: Row, cells: Cells) -> tuple[Row, ...]:
    match row:
        case Pair(prompt=prompt, chosen=chosen, rejected=rejected):
            return (Labelled(prompt, chosen, True), Labelled(prompt, rejected, False))
    return (row,)


def _as_prompt(row: Row, cells: Cells) -> tuple[Row, ...]:
    answer = _last_answer(row) if cells.get("answer") is None else cells.text("answer")
    plain = None if cells.get("plain") is None else cells.text("plain")
    others = {name: value for name, value in cells.columns.items() if name not in cells.roles.values()}
    return (Prompt(asked(prompt_messages(row)), answer, cells.text("task"), plain, others),)


def _last_answer(row: Row) -> str | None:
    match row:
        case Conversation(messages=(*_, last)) | Pair(chosen=(last,)) | Labelled(completion=(last,), good=True):
            return last.content
    return None


def _as_it_is(row: Row, cells: Cells) -> tuple[Row, ...]:
    return (row,)


CONVERSIONS: dict[type[Row], Callable[[Row, Cells], tuple[Row, ...]]] = {
    Conversation: _as_conversation,
    Labelled: _as_labelled,
    Prompt: _as_prompt,
    Pair: _as_it_is,
    Text: _as_it_is,
}


@dataclass(frozen=True)
class Recognised:
    """A layout and the columns that play its roles, for rows of one file."""

    layout: Layout
    roles: Roles
    shape: type[Row]

    def convert(self, columns: Mapping[str, Any]) -> tuple[Row, ...]:
        """A row's columns as rows of the shape asked for. Raises NotReadable or LeftOut."""
        cells = Cells(columns, self.roles)
        return CONVERSIONS[self.shape](self.layout.parse(cells), cells)


def recognise(sample: Sequence[Mapping[str, Any]], shape: type[Row], said: Mapping[str, str], place: str) -> Recognised:
    """How rows like the `sample` are read as `shape`; the user's map of columns goes first. Raises DataError."""
    columns = list(dict.fromkeys(name for row in sample for name in row))
    given = given_roles(said, columns, place)
    found = find_roles(name for name in columns if name not in given.values())
    if not _all_thumbs(row.get(found.get("label", "")) for row in sample):
        found.pop("label", None)
    aside = {role: found[role] for role in ASIDE if role in found}
    for roles in ({**aside, **given}, {**found, **given}) if given else (found,):
        for layout in LAYOUTS:
            if shape in layout.serves and layout.fits(roles):
                return Recognised(layout, layout.of(roles), shape)
    raise DataError(_unrecognised(columns, found, shape, place))


def _all_thumbs(labels: Iterable[Any]) -> bool:
    """Whether a column of labels is one of thumbs (and not of classes)."""
    return all(thumb(label) is not None for label in labels if label is not None)


NEEDED: dict[type[Row], tuple[str, tuple[str, ...]]] = {
    Text: ("text", ("text",)),
    Conversation: ("messages, or prompt and completion", ("prompt", "completion")),
    Pair: ("chosen and rejected, with prompt or messages", ("prompt", "chosen", "rejected")),
    Labelled: ("prompt, completion and label (true or false)", ("prompt", "completion", "label")),
    Prompt: ("prompt or messages", ("prompt", "answer")),
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
