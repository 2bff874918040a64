"""JSON Schema, the part of it that answers of models are asked for. A keyword that is not known is refused, not passed.

    type  enum  const                               any value
    minimum  maximum  exclusiveMinimum  exclusiveMaximum                           numbers
    minLength  maxLength  pattern                   strings; a pattern may stand anywhere in one
    properties  required  additionalProperties      objects
    items  minItems  maxItems                       arrays
    anyOf                                           one of several schemas

As in the standard, a keyword says nothing of values of another type, `1.0` is an integer, and `true` is no number.
"""

from collections.abc import Callable, Mapping
from typing import Any

from posttrain.schema.errors import UsageError, nearest

from .patterns import compiled, holds

Schema = Mapping[str, Any] | bool


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": _is_number,
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
REMARKS = frozenset({"$schema", "$id", "$comment", "title", "description", "default", "examples"})
"""Keywords that ask nothing of a value."""


def fits(value: Any, schema: Schema) -> bool:
    """Whether a JSON value is as a schema asks; the schema has been `check`ed. Raises TimeoutError for a `pattern` that
    takes too long."""
    if isinstance(schema, bool):
        return schema
    return all(ASKS[word](value, said, schema) for word, said in schema.items() if word in ASKS)


def check(schema: Any, at: str = "schema") -> None:
    """Raises UsageError for a schema that is none, or that asks for what is not known here; `at` is its place."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise UsageError(f"{at}: {schema!r} is no JSON schema. Write an object, such as {{type: object}}.")
    for word, said in schema.items():
        if word in REMARKS:
            continue
        if word not in ASKS:
            raise UsageError(
                f"{at}: the keyword {word!r} is not known. {nearest(str(word), ASKS)} Leave it out, or write what it "
                "asks with the keywords there are: passed over, it would let wrong answers through."
            )
        if not FORMS[word](said):
            raise UsageError(f"{at}.{word}: {said!r} does not fit. {CURES.get(word, 'Give a number.')}")
        for place, inner in _schemas_in(word, said):
            check(inner, f"{at}.{word}{place}")
        if word == "pattern":
            compiled(said)


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: `1` and `1.0` are, `1` and `true` are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return bool(one == other)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_type(said: Any) -> bool:
    names = said if isinstance(said, list) else [said]
    return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def _is_list(said: Any) -> bool:
    return isinstance(said, list) and bool(said)


def _schemas_in(word: str, said: Any) -> list[tuple[str, Any]]:
    """The schemas within a keyword, with their places."""
    if word in ("items", "additionalProperties"):
        return [("", said)]
    if word == "anyOf":
        return [(f"[{n}]", inner) for n, inner in enumerate(said)]
    return [(f".{name}", inner) for name, inner in said.items()] if word == "properties" else []


def _of_type(value: Any, said: Any, schema: Mapping[str, Any]) -> bool:
    return any(TYPES[name](value) for name in (said if isinstance(said, list) else [said]))


def _other_properties(value: Any, said: Schema, schema: Mapping[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    return all(fits(inner, said) for name, inner in value.items() if name not in schema.get("properties", {}))


def _properties(value: Any, said: Mapping[str, Schema], schema: Mapping[str, Any]) -> bool:
    return not isinstance(value, dict) or all(fits(value[name], said[name]) for name in said if name in value)


def _number(holds: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    return lambda value, said, schema: not _is_number(value) or holds(value, said)


def _sized(kind: type[str] | type[list[Any]], holds: Callable[[int, int], bool]) -> Callable[..., bool]:
    return lambda value, said, schema: not isinstance(value, kind) or holds(len(value), said)


ASKS: dict[str, Callable[[Any, Any, Mapping[str, Any]], bool]] = {
    "type": _of_type,
    "enum": lambda value, said, schema: any(same(value, each) for each in said),
    "const": lambda value, said, schema: same(value, said),
    "minimum": _number(lambda value, bound: value >= bound),
    "maximum": _number(lambda value, bound: value <= bound),
    "exclusiveMinimum": _number(lambda value, bound: value > bound),
    "exclusiveMaximum": _number(lambda value, bound: value < bound),
    "minLength": _sized(str, lambda length, bound: length >= bound),
    "maxLength": _sized(str, lambda length, bound: length <= bound),
    "pattern": lambda value, said, schema: not isinstance(value, str) or holds(said, value),
    "properties": _properties,
    "required": lambda value, said, schema: not isinstance(value, dict) or all(name in value for name in said),
    "additionalProperties": _other_properties,
    "items": lambda value, said, schema: not isinstance(value, list) or all(fits(each, said) for each in value),
    "minItems": _sized(list, lambda length, bound: length >= bound),
    "maxItems": _sized(list, lambda length, bound: length <= bound),
    "anyOf": lambda value, said, schema: any(fits(value, inner) for inner in said),
}
"""What each keyword asks of (value, what the keyword says, the schema around it)."""

FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_count),
    **dict.fromkeys(("enum", "anyOf"), _is_list),
    **dict.fromkeys(("items", "additionalProperties", "const"), lambda said: True),
    "type": _is_type,
    "pattern": lambda said: isinstance(said, str),
    "properties": lambda said: isinstance(said, Mapping),
    "required": lambda said: isinstance(said, list) and all(isinstance(name, str) for name in said),
}
"""What each keyword may say."""

CURES = {
    "type": f"Give one of {', '.join(TYPES)}, or a list of them.",
    "enum": "Give the values that are allowed, as a list.",
    "anyOf": "Give the schemas of which one must fit, as a list.",
    "pattern": "Give a regular expression as a string.",
    "properties": "Give an object with a schema for each name.",
    "required": "Give the names that must be there, as a list.",
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), "Give a whole number from 0."),
}
