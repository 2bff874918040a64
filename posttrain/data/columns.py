"""Which column plays which role: found by the names that data sets use, or said by the user.

A user's map names a column, or a pattern that is filled from several: `{prompt: "{Body} {Question}"}`. A dot goes
inside: `{instances.0.output}`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.schema.errors import DataError, nearest

ALIASES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "chosen": ("chosen", "chosen_messages", "chosen_response"),
    "rejected": ("rejected", "rejected_messages", "rejected_response"),
    "prompt": ("prompt", "instruction", "question", "query", "problem", "input", "问"),
    "context": ("input", "context"),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "completion": ("completion", "response", "output", "target", "targets", "solution", "答"),
    "answer": ("answer", "ground_truth"),
    "label": ("label", "kto_tag", "thumb", "thumbs", "feedback", "desirable"),
    "margin": ("margin",),
    "probability": ("probability",),
    "answers": ("answers", "responses", "outputs", "candidates", "ranked", "ranking"),
    "scores": ("scores", "ratings"),
    "steps": ("steps", "completions"),
    "tools": ("tools", "functions"),
    "template_options": ("chat_template_kwargs",),
    "text": ("text", "document", "article"),
    "plain": ("plain",),
    "task": ("task",),
    "ids": ("input_ids",),
    "labels": ("labels",),
    "mask": ("completion_mask",),
    "answer_mask": ("assistant_masks", "assistant_mask"),
    "attention": ("attention_mask",),
    "prompt_ids": ("prompt_ids", "prompt_input_ids"),
    "chosen_ids": ("chosen_ids", "chosen_input_ids"),
    "rejected_ids": ("rejected_ids", "rejected_input_ids"),
}
"""Role -> the names its column goes by, the most telling first. The order of roles is the order they are looked for."""
NAMES = frozenset(alias for aliases in ALIASES.values() for alias in aliases)
"""All names by which a column is known."""

Roles = Mapping[str, str]
"""Role -> column, or the pattern that is filled."""

N_NAMED = 20
"""How many columns an error names."""
BLANK = re.compile(r"\{([^{}]+)\}")


def find_roles(columns: Iterable[str]) -> dict[str, str]:
    """The roles that columns play by their names; no column plays two."""
    by_name = {name.strip().casefold(): name for name in reversed(list(columns))}
    roles: dict[str, str] = {}
    for role, aliases in ALIASES.items():
        if alias := next((alias for alias in aliases if alias in by_name), None):
            roles[role] = by_name.pop(alias)
    if roles.get("context", "").casefold() == "input" and roles.get("prompt", "").casefold() != "instruction":
        del roles["context"]  # beside a `prompt`, the `input` is usually in it already
    return roles


def given_roles(said: Mapping[str, str], columns: Iterable[str], place: str) -> dict[str, str]:
    """The user's map `role: column`, with the roles under our names. Raises DataError for an unknown role or column."""
    columns = list(columns)
    ours = {alias: role for role, aliases in ALIASES.items() for alias in aliases} | {role: role for role in ALIASES}
    for role, column in said.items():
        if role not in ours:
            raise DataError(f"`columns` names the unknown role {role!r}. {nearest(role, ALIASES)}")
        for name in blanks(column, columns):
            if name not in columns:
                raise DataError(
                    f"{place} has no column {name!r}. {nearest(name, map(plainly, columns))} "
                    f"Mend `columns: {{{role}: …}}`."
                )
    return {ours[role]: column for role, column in said.items()}


def blanks(column: str, columns: Iterable[str]) -> list[str]:
    """The columns that a map's value names: itself, or those in the braces of a pattern."""
    columns = set(columns)
    if column in columns or not (found := BLANK.findall(column)):
        return [column]
    return [name if name in columns else name.partition(".")[0] for name in found]


def is_pattern(column: str, columns: Iterable[str]) -> bool:
    """Whether a map's value is a pattern to fill."""
    return column not in columns and bool(BLANK.search(column))


def filled(pattern: str, columns: Mapping[str, Any]) -> str | None:
    """The pattern with the cells of a row in its blanks; None when they are all empty."""
    values = [_inside(columns, name) for name in BLANK.findall(pattern)]
    if all(value is None for value in values):
        return None
    texts = iter(map(_written, values))
    return BLANK.sub(lambda _: next(texts), pattern)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _inside(columns: Mapping[str, Any], name: str) -> Any:
    """The cell of a column, or what is at `column.key.0` inside of it; None when there is none."""
    if name in columns:
        return columns[name]
    value: Any = columns
    for key in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def plainly(name: str) -> str:
    """A column's name as it is shown: short, and inert in a terminal."""
    return repr(name if len(name) <= 40 else name[:40] + "…")[1:-1] or "(without a name)"


def named(columns: Iterable[str]) -> str:
    """Columns as messages list them: not too many."""
    names = list(map(plainly, columns))
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return (", ".join(names[:N_NAMED]) or "none") + more
