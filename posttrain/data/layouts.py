"""How rows are laid out in columns, and what they are by nature.

layout                 columns (`columns.ALIASES` has their other names)                    by nature
preferences            chosen, rejected; with prompt or messages, or both whole dialogues   Pair
labelled answers       prompt, completion, label; or messages, label                        Labelled
messages               messages                                                             Conversation or Prompt
prompt and completion  prompt (context, system, history), completion or answer              Conversation
text                   text                                                                 Text
prompts                prompt                                                               Prompt
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any

from posttrain.schema.rows import Conversation, Labelled, Message, Messages, Pair, Prompt, Row, Text

from .columns import Roles
from .containers import shown
from .turns import NotReadable, history_of, messages_of, text_of

PROMPT = ("system", "history", "prompt", "context")
THUMBS = {"true": True, "false": False, "1": True, "0": False}
ASIDE = ("answer", "plain", "task")
"""Roles that ask for nothing by themselves; a row of any layout may have them."""


class LeftOut(Exception):
    """A readable row that the shape asked for has no use for; the message says what is so about it."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of one row by role. A null counts as not there, and so does pandas' NaN."""

    columns: Mapping[str, Any]
    roles: Roles

    def get(self, role: str) -> Any:
        value = self.columns.get(self.roles.get(role, ""))
        return None if isinstance(value, float) and isnan(value) else value

    def need(self, role: str) -> Any:
        """The cell of a role. Raises NotReadable when it is not there."""
        if (value := self.get(role)) is None:
            raise NotReadable(f"the column {self.roles.get(role, role)!r} is missing or null")
        return value

    def text(self, role: str) -> str:
        """The cell as text; empty when it is not there."""
        value = self.get(role)
        return "" if value is None else text_of(value, f"the column {self.roles[role]!r}")

    def messages(self, role: str, speaker: str) -> Messages:
        """The messages in the cell of a role; a string is said by `speaker`. Raises NotReadable when there are none."""
        found = messages_of(self.need(role), f"{self.roles[role]!r}", speaker)
        if not found:
            raise NotReadable(f"the column {self.roles[role]!r} has no messages")
        return found


@dataclass(frozen=True)
class Layout:
    """One way to write rows: the roles it `needs` (one of several sets) and may read, and what it is read as."""

    name: str
    needs: tuple[frozenset[str], ...]
    reads: tuple[str, ...]
    serves: tuple[type[Row], ...]
    parse: Callable[[Cells], Row]

    def fits(self, roles: Roles) -> bool:
        return any(needed <= roles.keys() for needed in self.needs)

    def of(self, roles: Roles) -> Roles:
        """The roles that it reads. An `answer` without a completion beside it is the completion."""
        read = {role: column for role, column in roles.items() if role in self.reads or role in ASIDE}
        if "completion" in self.reads and not read.keys() & {"completion", "messages"}:
            read["completion"] = read.pop("answer")
        return read


# What a row is by nature


def _with_system(messages: Messages, cells: Cells) -> Messages:
    system = cells.text("system")
    if not system.strip() or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", system), *messages)


def _prompt(cells: Cells) -> Messages:
    """The messages before the answer, from `messages` or from `prompt` and what goes with it."""
    if "messages" in cells.roles:
        return _with_system(cells.messages("messages", ""), cells)
    turns = cells.messages("prompt", "user")
    if len(turns) > 1 and turns[-1] == Message("assistant", ""):  # "…\n\nAssistant:" stands for the answer to come
        turns = turns[:-1]
    if (context := cells.text("context")).strip():
        turns = (*turns[:-1], Message(turns[-1].role, f"{turns[-1].content}\n{context}"))
    if (earlier := cells.get("history")) is not None:
        turns = history_of(earlier) + turns
    return _with_system(turns, cells)


def _answer(messages: Messages, what: str) -> Messages:
    if [m.role for m in messages] != ["assistant"]:
        roles = ", ".join(m.role for m in messages)
        raise NotReadable(f"{what} must be one message of the assistant after the prompt, these are: {roles}")
    return messages


def asked(messages: Messages) -> Messages:
    """The messages of a prompt. Raises NotReadable when the assistant has the last word."""
    if not messages or messages[-1].role == "assistant":
        raise NotReadable("the prompt must end with a turn of the user")
    return messages


def _pair(cells: Cells) -> Row:
    chosen, rejected = (cells.messages(side, "assistant") for side in ("chosen", "rejected"))
    if chosen[0].role != "assistant":  # whole dialogues, which differ in the last answer
        if chosen[:-1] != rejected[:-1]:
            raise LeftOut("the dialogues differ before the last answer")
        prompt, chosen, rejected = _with_system(chosen[:-1], cells), chosen[-1:], rejected[-1:]
    else:
        prompt = _prompt(cells)
    return Pair(asked(prompt), _answer(chosen, "the chosen answer"), _answer(rejected, "the rejected answer"))


def thumb(label: Any) -> bool | None:
    """Up or down; None for a label that is neither."""
    return THUMBS.get(str(label).strip().lower()) if isinstance(label, str | int) else None


def _labelled(cells: Cells) -> Row:
    good = thumb(cells.need("label"))
    if good is None:
        raise NotReadable(f"the label must be true or false, this is {shown(cells.need('label'))}")
    if "messages" in cells.roles:
        turns = _prompt(cells)
        prompt, completion = turns[:-1], turns[-1:]
    else:
        prompt, completion = _prompt(cells), cells.messages("completion", "assistant")
    return Labelled(asked(prompt), _answer(completion, "the completion"), good)


def _whole(messages: Messages) -> Row:
    return Conversation(messages) if messages[-1].role == "assistant" else Prompt(messages)


def _messages(cells: Cells) -> Row:
    return _whole(_prompt(cells))


def _prompt_completion(cells: Cells) -> Row:
    completion = cells.messages("completion", "assistant")
    return _whole(asked(_prompt(cells)) + completion)


def _text(cells: Cells) -> Row:
    return Text(text_of(cells.need("text"), f"the column {cells.roles['text']!r}"))


def _prompt_alone(cells: Cells) -> Row:
    return Prompt(asked(_prompt(cells)))


def _sets(*needs: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(roles.split()) for roles in needs)


LAYOUTS = (
    Layout(
        "preferences",
        _sets("chosen rejected"),
        ("messages", *PROMPT, "chosen", "rejected"),
        (Pair, Labelled, Conversation, Prompt),
        _pair,
    ),
    Layout(
        "labelled answers",
        _sets("messages label", "prompt completion label"),
        ("messages", *PROMPT, "completion", "label"),
        (Labelled, Conversation, Prompt),
        _labelled,
    ),
    Layout("messages", _sets("messages"), ("messages", "system"), (Conversation, Prompt), _messages),
    Layout(
        "prompt and completion",
        _sets("prompt completion", "prompt answer"),
        (*PROMPT, "completion"),
        (Conversation, Prompt),
        _prompt_completion,
    ),
    Layout("text", _sets("text"), ("text",), (Text,), _text),
    Layout("prompts", _sets("prompt"), PROMPT, (Prompt,), _prompt_alone),
)
"""The most telling first: rows with chosen and rejected have messages too, and those are only the prompt."""
