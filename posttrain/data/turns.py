"""Messages, however they are written: role/content, from/value, one string, blocks, a whole dialogue in a string.

Everything here raises `NotReadable` with what is wrong; the reader adds file and line.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from posttrain.schema.errors import nearest
from posttrain.schema.rows import Message, Messages

from .containers import kind, shown

ROLE_NAMES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""What data sets call a role -> what we call it."""

DIALOGUE_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
"""Where a turn begins in a dialogue that is written as one string (hh-rlhf)."""


class NotReadable(ValueError):
    """A row that cannot be read; the message says why."""


def text_of(value: Any, what: str) -> str:
    """A value as text: a string, or a number as it is written. `what` names it in errors."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise NotReadable(f"{what} must be text, this is {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise NotReadable(
            f"{what} holds a byte or half a character that is no Unicode, at {error.start + 1}"
        ) from error
    return value


def messages_of(value: Any, what: str, role: str) -> Messages:
    """The messages that a value holds. A string that is no dialogue is one message of `role`, if one is given."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = _unpacked(value)
    if isinstance(value, str) and is_dialogue(value):
        return dialogue(value)
    if isinstance(value, Mapping):
        return (_message(value, what),)
    if isinstance(value, list | tuple):
        return tuple(_message(turn, f"{what}[{n}]") for n, turn in enumerate(value))
    if not role:
        raise NotReadable(f"{what} must be a list of messages, this is {kind(value)}")
    return (Message(role, text_of(value, what)),)


def _unpacked(text: str) -> Any:
    """A list of messages that went through a CSV file as JSON; any other text stays text."""
    turns = _json(text)
    written_as = ({"role", "content"}, {"from", "value"})
    if isinstance(turns, list) and all(
        isinstance(t, dict) and any(t.keys() >= keys for keys in written_as) for t in turns
    ):
        return turns
    return text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _message(turn: Any, what: str) -> Message:
    if not isinstance(turn, Mapping):
        raise NotReadable(f"{what} must be an object with a role and content, this is {kind(turn)}")
    name = _either(turn, "role", "from")
    if not isinstance(name, str):
        raise NotReadable(f"the role of {what} must be text, this is {kind(name)}")
    role = ROLE_NAMES.get(name.strip().lower())
    if role is None:
        raise NotReadable(f"{what} has the unknown role {shown(name)}. {nearest(name[:40], ROLE_NAMES)}")
    if turn.get("tool_calls"):
        raise NotReadable(f"{what} has `tool_calls`, which have no text. Write them into its content")
    return Message(role, _content(_either(turn, "content", "value"), what))


def _either(turn: Mapping[str, Any], name: str, other: str) -> Any:
    """Arrow writes a null where a key was not there."""
    return turn.get(other) if turn.get(name) is None else turn[name]


def _content(value: Any, what: str) -> str:
    """The text of a message: a string, or a list of blocks that are all text."""
    if not isinstance(value, list):
        return text_of(value, f"the content of {what}")
    return "".join(_block(block, what) for block in value)


def _block(block: Any, what: str) -> str:
    if not isinstance(block, Mapping):
        raise NotReadable(f"{what} has a content block that is {kind(block)}")
    if block.get("type") != "text":
        raise NotReadable(f"{what} has a content block that is no text, but of type {shown(block.get('type'))}")
    return text_of(_either(block, "text", "value"), f"a content block of {what}")


def is_dialogue(text: str) -> bool:
    """Whether a string is a dialogue: it begins with `Human:` and has a turn of the assistant."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def dialogue(text: str) -> Messages:
    """The turns of a string `\\n\\nHuman: … \\n\\nAssistant: …`. An empty last turn of the assistant is kept."""
    parts = DIALOGUE_TURN.split("\n\n" + text.lstrip())[1:]
    checked = [text_of(part, "the dialogue").strip() for part in parts]
    return tuple(
        Message(ROLE_NAMES[name.lower()], said) for name, said in zip(checked[::2], checked[1::2], strict=True)
    )


def history_of(value: Any) -> Messages:
    """The earlier turns of alpaca's `history`: a list of [question, answer]."""
    if isinstance(value, str):
        value = _json(value) if value.strip() else []
    if not isinstance(value, list):
        raise NotReadable(f"the history must be a list of [question, answer], this is {kind(value)}")
    turns: list[Message] = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise NotReadable("the history must be a list of [question, answer]")
        turns += [
            Message("user", text_of(pair[0], "the history")),
            Message("assistant", text_of(pair[1], "the history")),
        ]
    return tuple(turns)
