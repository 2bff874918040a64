"""A row as it stands in its file, or why it cannot be read; and its values as text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stands in its file. `place` is `file:line`, or `file, row n` where rows have no line."""

    place: str
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read, and why."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class NotReadable(ValueError):
    """A row that cannot be read; the message says why."""


Records = Iterator[Record | BadRow]


def record(place: str, row: Any) -> Record | BadRow:
    """A JSON value as a row: an object, a text, an object alone in a list, or one in the dress of a data viewer."""
    if isinstance(row, list) and len(row) == 1 and isinstance(row[0], dict):
        row = row[0]
    if isinstance(row, str):
        return Record(place, {"text": row})
    if isinstance(row, dict):
        inner = row.get("row") if "row_idx" in row else None
        return Record(place, inner if isinstance(inner, dict) else row)
    return BadRow(place, f"a row must be an object with columns, this is {kind(row)}")


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = {list: "a list", dict: "an object", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value)) or (
        "a number" if isinstance(value, int | float) else f"of type {type(value).__name__}"
    )


def shown(value: Any) -> str:
    """A value as an error shows it: short, on one line, inert in a terminal."""
    return repr(value[:40]) if isinstance(value, str) else kind(value)


def without_nulls(value: Any) -> Any:
    """A value whose objects have no null inside, at any depth: Arrow writes one wherever another row has a key."""
    if isinstance(value, Mapping):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


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
