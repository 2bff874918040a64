"""What a line of data may be. Every method names the shape it reads; `data.read` turns files into these.

Text            plain text: continued pretraining, perplexity
Conversation    messages, of which the assistant's are learnt
Pair            a prompt with a chosen and a rejected answer
Labelled        a prompt with one answer and a thumb up or down
Ranked          a prompt with several answers, the best first
Prompt          a prompt alone, with what a grader needs to judge an answer
Answered        the same with an answer that is to be judged

Tokenised       token ids that another program made, in place of a Text or Conversation
TokenisedPair   the same in place of a Pair
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the assistant calls. `arguments` is JSON text, usually of an object."""

    name: str
    arguments: str = "{}"
    id: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As chat templates get it: with the arguments as an object, where they are one."""
        function = {"name": self.name, "arguments": _parsed(self.arguments)}
        return {"type": "function", **({"id": self.id} if self.id else {}), "function": function}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is one of ROLES.

    `reasoning` is what the assistant thought before the answer, where that stands in a field of its own; `tool_calls`
    are learnt as part of the answer, so a template that leaves them out cannot be used for the row. `tool_call_id` and
    `name` say which call a tool answers. `trained` overrules what is learnt by default. `given` is how the content begins where
    that is not learnt either: the turn learns to go on from words that another put into its mouth.
    """

    role: str
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    trained: bool | None = None
    given: str = ""

    @property
    def is_trained(self) -> bool:
        """Whether the turn is learnt in a conversation: the assistant's are, unless the row says otherwise."""
        return self.role == "assistant" if self.trained is None else self.trained

    def as_dict(self) -> dict[str, Any]:
        """As chat templates get it; what is not there has no key."""
        more = {
            "reasoning_content": self.reasoning,
            "tool_calls": [call.as_dict() for call in self.tool_calls],
            "tool_call_id": self.tool_call_id,
            "name": self.name,
        }
        return {"role": self.role, "content": self.content, **{name: value for name, value in more.items() if value}}


Messages = tuple[Message, ...]
Tools = tuple[Mapping[str, Any], ...]
"""Descriptions of tools as chat templates get them, each `{"type": "function", "function": {"name": …}}`."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages that end with the assistant's. `tools` are offered in it; `template_options` are handed to the chat
    template (`enable_thinking`)."""

    messages: Messages
    task: str = ""
    tools: Tools = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair:
    """`prompt` ends with the user; both answers continue it. `margin` is by how much the chosen one is better, where
    that is known. `probability` is how likely it is better, where a judge is not sure."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    margin: float | None = None
    tools: Tools = ()
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """Answers to one prompt, best first; equal grades are equally good. Of two answers `probability` is how likely the
    first is better, where a judge is not sure."""

    prompt: Messages
    answers: tuple[Messages, ...]
    grades: tuple[float, ...]
    tools: Tools = ()
    probability: float | None = None

    def pairs(self) -> tuple[Pair, ...]:
        """All pairs of which one is better."""
        judged = zip(self.answers, self.grades, strict=True)
        return tuple(
            Pair(self.prompt, better, worse, tools=self.tools)
            for (better, high), (worse, low) in combinations(judged, 2)
            if high != low
        )


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt with one answer, which is `good` or not."""

    prompt: Messages
    completion: Messages
    good: bool
    tools: Tools = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question for a model. `answer` is what a grader compares with; `plain` asks the same of a model without a
    chat format, as running text; `columns` are the row's other columns, for graders and rewards."""

    messages: Messages
    answer: str | None = None
    task: str = ""
    plain: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    tools: Tools = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answered:
    """A question and what a model answered, which nobody has judged yet."""

    prompt: Prompt
    said: Message


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Token ids and which of them are learnt, equally long."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class TokenisedPair:
    """The token ids of a prompt and of both answers; all of an answer is learnt."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


Row = Text | Conversation | Pair | Ranked | Labelled | Prompt | Answered | Tokenised | TokenisedPair


def prompt_messages(row: Row) -> Messages:
    """The part of a row that a model is asked: everything before the last answer."""
    match row:
        case Text() | Tokenised() | TokenisedPair():
            return ()
        case Conversation(messages=messages):
            return messages[:-1]
        case Prompt(messages=messages) | Answered(prompt=Prompt(messages=messages)):
            return messages
        case Pair(prompt=prompt) | Ranked(prompt=prompt) | Labelled(prompt=prompt):
            return prompt


def messages_in(row: Row) -> Messages:
    """All messages of a row, answers included."""
    match row:
        case Conversation(messages=messages) | Prompt(messages=messages):
            return messages
        case Answered(prompt=prompt, said=said):
            return (*prompt.messages, said)
        case Pair(prompt=prompt, chosen=chosen, rejected=rejected):
            return prompt + chosen + rejected
        case Ranked(prompt=prompt, answers=answers):
            return sum(answers, prompt)
        case Labelled(prompt=prompt, completion=completion):
            return prompt + completion
    return ()


def fingerprint(row: Row) -> str:
    """Twelve hex digits that name what a row asks, so that training and measuring on the same prompt is noticed."""
    return hashlib.sha256(_asked(row).encode()).hexdigest()[:12]


def _asked(row: Row) -> str:
    match row:
        case Text(text=text):
            return text
        case Tokenised(ids=ids) | TokenisedPair(prompt=ids):
            return "\0ids\0" + " ".join(map(str, ids))
    return "\0".join(f"{m.role}\0{m.content}" + "".join(map(_called, m.tool_calls)) for m in prompt_messages(row))


def _called(call: ToolCall) -> str:
    return f"\0{call.name}\0{call.arguments}"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
