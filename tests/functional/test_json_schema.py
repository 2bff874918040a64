"""JSON Schema against verdicts that the standard gives, and against any value at all."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from posttrain.functional.json_schema import ASKS, CURES, FORMS, TYPES, check, fits, same
from posttrain.schema.errors import UsageError

NAMED = {"properties": {"a": {"type": "integer"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "fitting", "wrong"),
    [
        ({"type": "integer"}, [1, -3, 1.0, 10**400], [1.5, True, "1", None, [1], float("inf")]),
        ({"type": "number"}, [1, 1.5], [True, "1"]),
        ({"type": "boolean"}, [True, False], [0, 1, "true"]),
        ({"type": "null"}, [None], [0, False, ""]),
        ({"type": ["string", "null"]}, ["", None], [0, []]),
        ({"enum": [1, "a", None]}, [1, 1.0, "a", None], [True, "1", 2]),
        ({"const": {"a": [1, True]}}, [{"a": [1.0, True]}], [{"a": [1, 1]}, {"a": [True, True]}, {"a": [1]}, {}]),
        ({"minimum": 2, "maximum": 3}, [2, 3, 2.5, "x"], [1.9, 4]),
        ({"exclusiveMinimum": 2, "exclusiveMaximum": 3}, [2.5], [2, 3]),
        ({"minLength": 2, "maxLength": 3}, ["ab", "红的红", 5, []], ["a", "abcd"]),
        ({"pattern": "b+"}, ["abbc", 5], ["ac"]),
        ({"required": ["a"]}, [{"a": None}, [], "x"], [{}, {"b": 1}]),
        (NAMED, [{}, {"a": 1}, []], [{"a": "1"}, {"a": 1, "b": 2}]),
        ({"additionalProperties": {"type": "string"}}, [{"x": "y"}], [{"x": 1}]),
        ({"items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [[1], [1, 2], {}], [[], [1, 2, 3], ["1"]]),
        ({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 5}]}, ["", 7], [3, None]),
        ({"items": {"items": {"type": "null"}}}, [[[None], []], [3]], [[[1]]]),
        (True, [1, None], []),
        ({}, [1, None], []),
        (False, [], [1, None]),
        ({"title": "an answer", "description": "…", "default": 3, "examples": [1]}, ["x"], []),
    ],
)
def test_verdicts(schema: Any, fitting: list[Any], wrong: list[Any]) -> None:
    check(schema)
    assert [value for value in fitting if not fits(value, schema)] == []
    assert [value for value in wrong if fits(value, schema)] == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"oneOf": []}, r"schema: the keyword 'oneOf' is not known\. Did you mean 'anyOf'\?"),
        ({"items": {"$ref": "#"}}, r"schema\.items: the keyword '\$ref'"),
        ({"anyOf": [{}, {"format": "date"}]}, r"schema\.anyOf\[1\]: the keyword 'format'"),
        ({"type": "int"}, r"schema\.type: 'int' does not fit\. Give one of null"),
        ({"type": []}, "does not fit"),
        ({"minimum": "1"}, "Give a number"),
        ({"minimum": True}, "Give a number"),
        ({"minLength": -1}, "whole number from 0"),
        ({"maxItems": 1.5}, "whole number from 0"),
        ({"required": "a"}, "names that must be there"),
        ({"properties": ["a"]}, "a schema for each name"),
        ({"properties": {"a": 3}}, r"schema\.properties\.a: 3 is no JSON schema"),
        ({"enum": []}, "as a list"),
        ({"anyOf": {}}, "as a list"),
        ({"items": [{}]}, "is no JSON schema"),
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": 5}, "as a string"),
        ("object", "is no JSON schema"),
        (None, "is no JSON schema"),
    ],
)
def test_schemas_that_are_refused(schema: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check(schema)


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_equality_is_that_of_json(one: Any, other: Any) -> None:
    assert same(one, one)
    assert same(one, other) == same(other, one)
    assert fits(other, {"const": one}) == same(one, other) == fits(other, {"enum": [one]})
    if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert same(one, other)


@given(JSON)
def test_every_value_has_the_types_that_it_has(value: Any) -> None:
    found = {name for name in TYPES if fits(value, {"type": name})}
    assert found - {"integer"} and len(found - {"integer"}) == 1
    assert "integer" not in found or "number" in found
    assert fits(value, {"anyOf": [{"type": name} for name in TYPES]})


def test_every_keyword_says_what_it_may_hold() -> None:
    assert FORMS.keys() == ASKS.keys()
    assert CURES.keys() < ASKS.keys()
