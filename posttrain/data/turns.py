"""Messages, however they are written: role/content, from/value, one string, blocks, pairs, a whole dialogue in a string.

Everything here raises `NotReadable` with what is wrong; the reader adds file and line.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from posttrain.schema.errors import nearest
from posttrain.schema.rows import Message, Messages, ToolCall

from .record import NotReadable, kind, shown, text_of
from .tools import calls_of, is_call, parsed

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
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""What data sets call a role -> what we call it."""
IN_TURN = ("system", "user", "assistant")
"""The order in which an object with a key for every role is spoken."""
LEARNT = ("loss", "loss_weight", "loss_scale", "weight", "train", "training")
"""Keys that say whether a turn is learnt; `masked` says the opposite."""
SWITCHES = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
TEXT_BLOCKS = ("text", "input_text", "output_text", "refusal")
REASONING = ("reasoning", "thinking")
CALL_BLOCKS = ("tool_use", "tool_call", "function_call")

DIALOGUE_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
"""Where a turn begins in a dialogue that is written as one string (hh-rlhf)."""


def messages_of(value: Any, what: str, role: str) -> Messages:
    """The messages that a value holds. A string that is no dialogue is one message of `role`, if one is given."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = _unpacked(value)
    if isinstance(value, str) and is_dialogue(value):
        return dialogue(value)
    if isinstance(value, Mapping):
        return _turn(value, what)
    if isinstance(value, list | tuple):
        return tuple(message for n, turn in enumerate(value) for message in _turn(turn, f"{what}[{n}]"))
    if not role:
        raise NotReadable(f"{what} must be a list of messages, this is {kind(value)}")
    return (Message(role, text_of(value, what)),)


def _unpacked(text: str) -> Any:
    """A list of messages that went through a CSV file as JSON; any other text stays text."""
    turns = parsed(text)
    written_as = ({"role", "content"}, {"from", "value"})
    if isinstance(turns, list) and all(
        isinstance(t, dict) and any(t.keys() >= keys for keys in written_as) for t in turns
    ):
        return turns
    return text


def _turn(turn: Any, what: str) -> Messages:
    """The messages of one turn: several where results of tools stand in a turn of the user, or all roles in one
    object."""
    if not isinstance(turn, Mapping):
        raise NotReadable(f"{what} must be an object with a role and content, this is {kind(turn)}")
    name = _either(turn, "role", "from")
    if name is None and (spoken := {ROLE_NAMES[key]: said for key, said in turn.items() if key in ROLE_NAMES}):
        said = [(role, spoken[role]) for role in IN_TURN if spoken.get(role) is not None]
        return tuple(Message(role, text_of(text, f"the {role} of {what}")) for role, text in said)
    if not isinstance(name, str):
        raise NotReadable(f"the role of {what} must be text, this is {kind(name)}")
    name = name.strip().lower()
    role = ROLE_NAMES.get(name)
    if role is None:
        raise NotReadable(f"{what} has the unknown role {shown(name)}. {nearest(name[:40], ROLE_NAMES)}")
    return _spoken(turn, role, name, what)


def _spoken(turn: Mapping[str, Any], role: str, name: str, what: str) -> Messages:
    """The messages of a turn with a role; `name` is what the data set calls it."""
    content = _either(turn, "content", "value")
    calls: tuple[ToolCall, ...] = ()
    for key in ("tool_calls", "function_call"):
        if turn.get(key):
            calls += calls_of(turn[key], what)
    if name in ("function_call", "tool_call") and is_call(content):
        calls, content = calls + calls_of(content, what), None
    results: Messages = ()
    reasoning = next((text_of(turn[key], f"the reasoning of {what}") for key in _reasoning(turn)), "")
    if isinstance(content, list) and (role != "tool" or all(_is_block(block) for block in content)):
        said, thought, more, results = _blocks(content, what)
        reasoning, calls = reasoning or thought, calls + more
    elif content is None and calls:
        said = ""
    elif role == "tool" and isinstance(content, Mapping | list):
        said = text_of(json.dumps(content, ensure_ascii=False), f"the content of {what}")
    else:
        said = text_of(content, f"the content of {what}")
    if results and not (said or calls):
        return results
    keys = ("tool_call_id", "name") if role == "tool" else ()
    of_tool = {key: text_of(turn[key], f"the {key} of {what}") for key in keys if turn.get(key) is not None}
    given = text_of(turn["given"], f"the given words of {what}") if turn.get("given") else ""
    if not said.startswith(given):
        raise NotReadable(
            f"{what} does not begin with its `given` words {shown(given)}: let its content begin with them"
        )
    return (
        *results,
        Message(role, said, reasoning, calls, trained=_trained(turn, role, what), given=given, **of_tool),
    )


def _either(turn: Mapping[str, Any], name: str, other: str) -> Any:
    """Arrow writes a null where a key was not there."""
    return turn.get(other) if turn.get(name) is None else turn[name]


def _reasoning(turn: Mapping[str, Any]) -> list[str]:
    return [key for key in ("reasoning_content", *REASONING) if isinstance(turn.get(key), str)]


def _is_block(block: Any) -> bool:
    return isinstance(block, Mapping) and isinstance(block.get("type"), str)


def _blocks(blocks: list[Any], what: str) -> tuple[str, str, tuple[ToolCall, ...], Messages]:
    """(text, reasoning, calls, results of tools) of the blocks of a message."""
    text, reasoning = "", ""
    calls: tuple[ToolCall, ...] = ()
    results: list[Message] = []
    for block in blocks:
        type_ = block.get("type") if isinstance(block, Mapping) else None
        if not isinstance(block, Mapping):
            raise NotReadable(f"{what} has a content block that is {kind(block)}")
        if type_ in TEXT_BLOCKS:
            text += text_of(_first(block, "text", "value", "refusal"), f"a content block of {what}")
        elif type_ in REASONING:
            reasoning += text_of(_first(block, *REASONING, "value", "text"), f"the reasoning of {what}")
        elif type_ in CALL_BLOCKS:
            calls += calls_of(block if "name" in block else _first(block, "value", "function"), what)
        elif type_ == "tool_result":
            results.append(_result(block, what))
        else:
            raise NotReadable(f"{what} has a content block that is no text, but of type {shown(type_)}")
    return text, reasoning, calls, tuple(results)


def _first(block: Mapping[str, Any], *names: str) -> Any:
    return next((block[name] for name in names if block.get(name) is not None), None)


def _result(block: Mapping[str, Any], what: str) -> Message:
    content = block.get("content")
    if isinstance(content, list):
        content = _blocks(content, what)[0]
    said = "" if content is None else text_of(content, f"the tool result of {what}")
    id = block.get("tool_use_id")
    return Message("tool", said, tool_call_id="" if id is None else text_of(id, f"the tool_use_id of {what}"))


def _trained(turn: Mapping[str, Any], role: str, what: str) -> bool | None:
    """Whether a turn is learnt, where it says so and it is not so anyway."""
    said = {key: turn[key] for key in (*LEARNT, "masked") if turn.get(key) is not None}
    if turn.get("train_detail"):
        raise NotReadable(f"{what} has `train_detail`, a mask of characters. Say `train` of whole turns instead")
    if not said:
        return None
    key, value = next(iter(said.items()))
    switch = SWITCHES.get(str(value).lower()) if isinstance(value, str | int | float) else None
    if switch is None:
        told = str(value)[:20] if isinstance(value, int | float) else shown(value)
        raise NotReadable(f"{what} has `{key}: {told}`, but a turn is learnt or not. Write 1 or 0")
    learnt = switch != (key == "masked")
    return None if learnt == (role == "assistant") else learnt


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
    """The earlier turns beside a prompt: a list of [question, answer], or of messages."""
    if isinstance(value, str):
        value = parsed(value) if value.strip() else []
    if not isinstance(value, list):
        raise NotReadable(f"the history must be a list of [question, answer], this is {kind(value)}")
    turns: list[Message] = []
    for n, pair in enumerate(value):
        if isinstance(pair, Mapping):
            turns += _turn(pair, f"history[{n}]")
        elif isinstance(pair, list) and len(pair) == 2:
            spoken = zip(("user", "assistant"), pair, strict=True)
            turns += [Message(role, text_of(said, "the history")) for role, said in spoken]
        else:
            raise NotReadable("the history must be a list of [question, answer]")
    return tuple(turns)
