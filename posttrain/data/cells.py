"""The cells of one row by the role that their columns play, and the messages in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any

from posttrain.schema.rows import Message, Messages, Tools

from .columns import Roles
from .record import NotReadable, kind, text_of
from .tools import parsed, tools_of
from .turns import history_of, messages_of


class LeftOut(Exception):
    """A readable row that the shape asked for has no use for; the message says what is so about it."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of one row by role. A null counts as not there, and so does pandas' NaN."""

    columns: Mapping[str, Any]
    roles: Roles

    def get(self, role: str) -> Any:
        value = self.columns.get(self.roles[role]) if role in self.roles else None
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

    def list(self, role: str) -> list[Any]:
        """The list in the cell of a role, or in its JSON text."""
        value = self.need(role)
        value = parsed(value) if isinstance(value, str) else value
        if not isinstance(value, list):
            raise NotReadable(f"the column {self.roles[role]!r} must be a list, this is {kind(value)}")
        return value

    def tools(self) -> Tools:
        """The tools that the row offers."""
        return tools_of(self.get("tools"))

    def template_options(self) -> Mapping[str, Any]:
        """What the row hands to the chat template."""
        value = self.get("template_options")
        value = parsed(value) if isinstance(value, str) else value
        return value if isinstance(value, Mapping) else {}


def with_system(messages: Messages, cells: Cells) -> Messages:
    """Messages with the row's system text before them, unless they have one."""
    system = cells.text("system")
    if not system.strip() or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", system), *messages)


def prompt_of(cells: Cells) -> Messages:
    """The messages before the answer, from `messages` or from `prompt` and what goes with it."""
    if "messages" in cells.roles:
        return with_system(cells.messages("messages", ""), cells)
    turns = cells.messages("prompt", "user")
    if len(turns) > 1 and turns[-1] == Message("assistant", ""):  # "…\n\nAssistant:" stands for the answer to come
        turns = turns[:-1]
    if (context := cells.text("context")).strip():
        turns = (*turns[:-1], Message(turns[-1].role, f"{turns[-1].content}\n{context}"))
    if (earlier := cells.get("history")) is not None:
        turns = history_of(earlier) + turns
    return with_system(turns, cells)


def answered(messages: Messages, what: str) -> Messages:
    """An answer: one message of the assistant. Raises NotReadable when it is anything else."""
    if [m.role for m in messages] != ["assistant"]:
        roles = ", ".join(m.role for m in messages)
        raise NotReadable(f"{what} must be one message of the assistant after the prompt, these are: {roles}")
    return messages


def asked(messages: Messages) -> Messages:
    """The messages of a prompt. Raises NotReadable when the assistant has the last word."""
    if not messages or messages[-1].role == "assistant":
        raise NotReadable("the prompt must end with a turn of the user")
    return messages
