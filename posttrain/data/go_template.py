"""The part of Go's template language that an Ollama TEMPLATE needs for chats, rendered as Ollama does.

    {{ .System }}                 the system's words, those of several messages joined
    {{ range .Messages }} … {{ end }}      each message, with its {{ .Content }} and .Role
    {{ if .System }} … {{ else }} … {{ end }}
    {{ if eq .Role "user" }} … {{ else if eq .Role "assistant" }} … {{ end }}
    {{ $first := true }}   {{ if $first }} … {{ end }}   {{ $first = false }}   {{ "{{" }}   {{ "{" }}

Nothing else is understood: what is written in more than these cannot be verified, so it is not written.
(https://pkg.go.dev/text/template, and `Execute` and `collate` in Ollama's template/template.go)
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from posttrain.schema.rows import Message

ACTION = re.compile(r"\{\{ (.*?) \}\}", re.DOTALL)
IF, RANGE = re.compile(r"(?:else )?if (.+)"), "range .Messages"
ROLE = re.compile(r'eq \.Role "(\w+)"')
BRACES = ("{{", "{")  # of a text, written as strings of Go where an action would begin


@dataclass
class Block:
    """`if` or `range`: branches with their conditions, `else` being one that always holds."""

    branches: list[tuple[str, "list[Part]"]] = field(default_factory=list)


Part = str | tuple[str] | Block
"""Text as it stands, an action, or a block."""


def literal(text: str) -> str:
    """A text that a template writes as it is."""
    written = text.replace("{{", '{{ "{{" }}')
    return written[:-1] + '{{ "{" }}' if written.endswith("{") else written


def rendered(template: str, messages: Sequence[Message]) -> str:
    """What Ollama makes of a template and a conversation. Raises ValueError for a template in other words than these."""
    collated = list(_collated(messages))
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    parts, rest = _parsed(_pieces(template))
    if rest is not None:
        raise ValueError(f"{{{{ {rest} }}}} ends nothing")
    return "".join(_written(parts, {".System": system, ".Messages": collated}))


def _collated(messages: Sequence[Message]) -> Iterator[Message]:
    """Neighbours of one role become one message."""
    last: Message | None = None
    for message in messages:
        if last is not None and last.role == message.role:
            last = replace(last, content=f"{last.content}\n\n{message.content}")
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last


def _pieces(template: str) -> Iterator[str | tuple[str]]:
    """Texts, and actions as tuples."""
    end = 0
    for found in ACTION.finditer(template):
        yield template[end : found.start()]
        yield (found[1],)
        end = found.end()
    yield template[end:]


def _parsed(pieces: Iterator[str | tuple[str]]) -> tuple[list[Part], str | None]:
    """Parts up to the action that ends or continues the block around them, and that action."""
    parts: list[Part] = []
    for piece in pieces:
        if isinstance(piece, str):
            if "{{" in piece:
                raise ValueError(f"no action is written so: {piece!r}")
            parts.append(piece)
        elif piece[0] == "end" or piece[0].startswith("else"):
            return parts, piece[0]
        elif piece[0] == RANGE or IF.fullmatch(piece[0]):
            parts.append(_block(piece[0], pieces))
        else:
            parts.append(piece)
    return parts, None


def _block(opening: str, pieces: Iterator[str | tuple[str]]) -> Block:
    block, said = Block(), opening
    while said != "end":
        inside, following = _parsed(pieces)
        block.branches.append((said, inside))
        if following is None:
            raise ValueError(f"{{{{ {opening} }}}} has no end")
        said = following
    return block


def _written(parts: Sequence[Part], known: dict[str, Any]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Block):
            yield from _written_block(part, known)
        else:
            yield _acted(part[0], known)


def _written_block(block: Block, known: dict[str, Any]) -> Iterator[str]:
    opening, inside = block.branches[0]
    if opening == RANGE:
        for message in known[".Messages"]:
            known |= {".Role": message.role, ".Content": message.content}
            yield from _written(inside, known)
        return
    for said, branch in block.branches:
        if said == "else" or _holds(said, known):
            yield from _written(branch, known)
            return


def _holds(said: str, known: Mapping[str, Any]) -> bool:
    found = IF.fullmatch(said)
    asked = found[1] if found else said
    if role := ROLE.fullmatch(asked):
        return bool(known[".Role"] == role[1])
    if asked not in known:
        raise ValueError(f"{{{{ {said} }}}} is not understood")
    return bool(known[asked])


def _acted(action: str, known: dict[str, Any]) -> str:
    if action.strip('"') in BRACES:
        return action.strip('"')
    if action in ("$first := true", "$first = false"):
        known["$first"] = action.endswith("true")
        return ""
    if action not in (".System", ".Content") or action not in known:
        raise ValueError(f"{{{{ {action} }}}} is not understood")
    return str(known[action])
