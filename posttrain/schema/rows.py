"""What a line of data may be. Every method names the shape it reads; `data.read` turns files into these.

Text            plain text: continued pretraining, perplexity
Conversation    messages, of which the assistant's are learnt
Pair            a prompt with a chosen and a rejected answer
Labelled        a prompt with one answer and a thumb up or down
Prompt          a prompt alone, with what a grader needs to judge an answer
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is one of ROLES."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages that end with the assistant's."""

    messages: Messages
    task: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """`prompt` ends with the user; both answers continue it."""

    prompt: Messages
    chosen: Messages
    rejected: Messages


@dataclass(frozen=True, slots=True)
class Labelled:
    prompt: Messages
    completion: Messages
    good: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question for a model. `answer` is what a grader compares with; `plain` asks the same of a model without a
    chat format, as running text; `columns` are the row's other columns, for graders and rewards."""

    messages: Messages
    answer: str | None = None
    task: str = ""
    plain: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


Row = Text | Conversation | Pair | Labelled | Prompt


def prompt_messages(row: Row) -> Messages:
    """The part of a row that a model is asked: everything before the last answer."""
    match row:
        case Text():
            return ()
        case Conversation(messages=messages):
            return messages[:-1]
        case Prompt(messages=messages):
            return messages
        case Pair(prompt=prompt) | Labelled(prompt=prompt):
            return prompt


def fingerprint(row: Row) -> str:
    """Twelve hex digits that name what a row asks, so that training and measuring on the same prompt is noticed."""
    asked = row.text if isinstance(row, Text) else "\0".join(f"{m.role}\0{m.content}" for m in prompt_messages(row))
    return hashlib.sha256(asked.encode()).hexdigest()[:12]
