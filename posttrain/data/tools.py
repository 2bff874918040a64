"""Tools: what is offered, and what an assistant calls, in the ways of OpenAI, Anthropic and sharegpt.

    offered   {"type": "function", "function": {"name", "parameters"}} | {"name", "parameters" | "input_schema"}
    called    {"id", "function": {"name", "arguments": object or JSON}} | {"name", "arguments" | "input"}

Both as a list, or as the JSON text of one (`tools: "[…]"`, `from: function_call`).
"""

import json
from collections.abc import Mapping
from typing import Any

from posttrain.schema.rows import ToolCall, Tools

from .record import NotReadable, kind, shown, text_of


def parsed(text: str) -> Any:
    """A text that is JSON as what it says; any other text as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def tools_of(value: Any) -> Tools:
    """The tools that a cell offers, each as OpenAI writes it. Raises NotReadable."""
    value = parsed(value) if isinstance(value, str) and value.strip() else value
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        if value is None or (isinstance(value, str) and not value.strip()):
            return ()
        raise NotReadable(f"the tools must be a list of objects, or its JSON text; this is {kind(value)}")
    tools = tuple(_tool(parsed(tool) if isinstance(tool, str) else tool, n) for n, tool in enumerate(value))
    text_of(json.dumps(tools, ensure_ascii=False), "the tools")
    return tools


def _tool(tool: Any, n: int) -> Mapping[str, Any]:
    if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping):
        return {"type": "function", **tool}
    if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str):
        raise NotReadable(f"tools[{n}] must be an object with a name, this is {shown(tool)}")
    described = {name: value for name, value in tool.items() if name not in ("type", "input_schema")}
    if "input_schema" in tool:
        described["parameters"] = tool["input_schema"]
    return {"type": "function", "function": described}


def calls_of(value: Any, what: str) -> tuple[ToolCall, ...]:
    """The calls in a message: a list of them, one, or the JSON text of either. Raises NotReadable."""
    value = parsed(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise NotReadable(f"the tool calls of {what} must be a list of objects, this is {shown(value)}")
    return tuple(_call(parsed(call) if isinstance(call, str) else call, what) for call in value)


def _call(call: Any, what: str) -> ToolCall:
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    function = inner if isinstance(inner, Mapping) else {}
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise NotReadable(f"a tool call of {what} must be an object with the name of a tool, this is {shown(call)}")
    arguments = function.get("arguments", function.get("input", {}))
    id = call.get("id")
    written = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    texts = (text_of(text, f"a tool call of {what}") for text in (name, written, id if isinstance(id, str) else ""))
    return ToolCall(*texts)


def is_call(value: Any) -> bool:
    """Whether the text of a turn is nothing but calls, as sharegpt writes them."""
    value = parsed(value) if isinstance(value, str) else value
    calls = value if isinstance(value, list) else [value]
    return bool(calls) and all(
        isinstance(call, Mapping) and isinstance(call.get("name"), str) and "arguments" in call for call in calls
    )
