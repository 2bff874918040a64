"""Graders: what an answer is worth, from the text of a model and the row that asked for it. Pure, 0.0 or 1.0.

    exact         the same text, white space aside
    contains      the expected text occurs as words of its own, whatever the case
    number        the last number is the same: `1,080`, `-3`, `$18.00`, and GSM8K's `#### 18`
    choice        the same letter A-E: `B`, `(B)`, `The answer is B.`
    regex         the answer has a `pattern` in it, or is it as a `whole`
    json_schema   the answer is one JSON value that fits a `schema`
    complied      the answer does what was asked and does not decline, by how it begins (`refusals`)

A row holds what is expected as `answer`, or as `pattern` and `schema` where options do not give them. None is no verdict.
A grader of your own is named as `package.module:function`, and gets its options as keywords.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from posttrain.schema.errors import DataError, UsageError, nearest
from posttrain.schema.find import dotted

from .json_schema import check, fits
from .patterns import compiled, holds
from .refusals import complied

Grader = Callable[[str, Mapping[str, Any]], float | None]

FINAL = "####"
"""What stands before the final answer in GSM8K."""
NUMBER = re.compile(r"(?<![0-9])(?<![0-9]\.)[-\u2212]?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?![0-9])")
"""A number. A minus right behind a digit is a minus between two numbers: `5-3` has no -3."""
CHOICES = (
    re.compile(r"answer(?:\s+is)?\s*:?\s*\(?([A-E])\b", re.IGNORECASE),
    re.compile(r"\(([A-E])\)"),
    re.compile(r"^\s*([A-E])\s*(?:[.):,]|$)"),
    re.compile(r"\b([A-E])[\s.]*$"),
)
"""Where the letter of a choice stands, the most telling place first."""
FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*)```", re.DOTALL | re.IGNORECASE)
"""A JSON value as chat models write it."""


def exact(output: str, row: Mapping[str, Any]) -> float:
    """1.0 when the output is the expected answer, white space aside."""
    return float(_words(output) == _words(expected(row)))


def contains(output: str, row: Mapping[str, Any]) -> float:
    """1.0 when the expected answer occurs in the output as words of its own; the case does not matter."""
    wanted = re.escape(_words(expected(row)).casefold())
    return float(re.search(rf"(?<![a-z0-9]){wanted}(?![a-z0-9])", _words(output).casefold()) is not None)


def number(output: str, row: Mapping[str, Any]) -> float:
    """1.0 when the last number of the output is the last number of the expected answer. No number scores 0.0."""
    said, wanted = last_number(output), last_number(expected(row))
    return float(said is not None and said == wanted)


def choice(output: str, row: Mapping[str, Any]) -> float:
    """1.0 when output and expected answer name the same letter A-E. No letter scores 0.0."""
    said, wanted = letter(output), letter(expected(row))
    return float(said is not None and said == wanted)


@dataclass(frozen=True)
class Regex:
    """1.0 when the output holds a pattern. None when that cannot be told in bounded time."""

    pattern: str | None = None
    """The regular expression; the row's column `pattern` if not given."""
    whole: bool = False
    """Whether the whole output, white space around it aside, must be the pattern, or any part may."""

    def __post_init__(self) -> None:
        if self.pattern is not None:
            compiled(self.pattern)

    def __call__(self, output: str, row: Mapping[str, Any]) -> float | None:
        pattern = self.pattern if self.pattern is not None else _column(row, "pattern")
        try:
            return float(holds(pattern, output.strip() if self.whole else output, whole=self.whole))
        except TimeoutError:
            return None


@dataclass(frozen=True)
class JsonSchema:
    """1.0 when the output is one JSON value, in a fence or bare, that fits a schema."""

    schema: dict[str, Any] | bool | None = None
    """The schema; the row's column `schema`, an object or its JSON text, if not given."""

    def __post_init__(self) -> None:
        if self.schema is not None:
            check(self.schema)

    def __call__(self, output: str, row: Mapping[str, Any]) -> float | None:
        schema = self.schema if self.schema is not None else _schema_of(row)
        fenced = FENCED.fullmatch(output.strip())
        try:
            return float(fits(json_value(fenced[1] if fenced else output), schema))
        except (ValueError, RecursionError):
            return 0.0
        except TimeoutError:
            return None


GRADERS: dict[str, Callable[..., Any]] = {
    "exact": exact,
    "contains": contains,
    "number": number,
    "choice": choice,
    "regex": Regex,
    "json_schema": JsonSchema,
    "complied": complied,
}


def grader(
    name: str, options: Mapping[str, Any] | None = None, more: Mapping[str, Callable[..., Any]] | None = None
) -> Grader:
    """The grader of that name, or what `package.module:function` names, with its options; `more` are known beside
    GRADERS. Raises UsageError when there is none, and for options that do not fit it."""
    known = {**GRADERS, **(more or {})}
    if name not in known and ":" not in name:
        raise UsageError(f"There is no grader {name!r}. {nearest(name, known)} Or name your own as `module:function`.")
    found = known[name] if name in known else dotted(name)
    if not callable(found):
        raise UsageError(f"{name!r} is no function. Name one that takes (output, row) and returns a number.")
    _check_options(name, found, options or {})
    if not isinstance(found, type):
        return partial(found, **options) if options else found
    try:
        made: Grader = found(**(options or {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"grader {name!r}: the option {first['loc'][0]!r} does not fit: {first['input']!r}. {first['msg']}."
        ) from error
    return made


def _check_options(name: str, found: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that a grader does not know, and for one that it cannot do without."""
    try:
        parameters = list(inspect.signature(found).parameters.values())
    except ValueError:  # a function of C that does not tell
        return
    own = parameters if isinstance(found, type) else [p for p in parameters[2:] if p.kind is not p.VAR_POSITIONAL]
    known = {p.name for p in own if p.kind is not p.VAR_KEYWORD}
    unknown = sorted(options.keys() - known)
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in own):
        hint = nearest(unknown[0], known) if known else "It has none: leave it out."
        raise UsageError(f"grader {name!r}: there is no option {unknown[0]!r}. {hint}")
    missing = [p.name for p in own if p.name in known - options.keys() and p.default is p.empty]
    if missing:
        raise UsageError(
            f"grader {name!r}: its option {missing[0]!r} is missing. Write `{{{name!r}: {{{missing[0]}: …}}}}`."
        )


def expected(row: Mapping[str, Any]) -> str:
    """The answer that a row expects, as text. Raises DataError for a row without."""
    if row.get("answer") is None:
        raise DataError("A row to be graded has no answer. Say which column holds it with `columns: {answer: …}`.")
    return str(row["answer"])


def json_value(text: str) -> Any:
    """The one JSON value that a text is. Raises ValueError for anything else, NaN and Infinity among it."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def last_number(text: str) -> Decimal | None:
    """The last number of a text, or the first behind `####`; None when there is none."""
    _, mark, final = text.rpartition(FINAL)
    found = NUMBER.findall(final if mark else text)
    if not found:
        return None
    return Decimal(re.sub("[,$]", "", found[0 if mark else -1]).replace("\u2212", "-"))


def letter(text: str) -> str | None:
    """The letter A-E that a text settles on; None when it names none."""
    for place in CHOICES:
        if found := place.findall(text):
            return str(found[-1]).upper()
    return None


def _words(text: str) -> str:
    return " ".join(text.split())


def _column(row: Mapping[str, Any], name: str) -> str:
    """A row's own column of text. Raises DataError for a row without."""
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError(
            f"A row to be graded has no {name}. Give one for all rows as the option `{name}`, or for each as a column."
        )
    return value


def _schema_of(row: Mapping[str, Any]) -> Any:
    """The schema that a row brings. Raises DataError for a row without, and for one that is none."""
    said = row.get("schema")
    if isinstance(said, dict | bool):
        schema = said
    else:
        try:
            schema = json_value(_column(row, "schema"))
        except ValueError as error:
            raise DataError(f"A row's schema is no JSON ({error}). Write it as a JSON object.") from error
    try:
        check(schema, "A row's schema")
    except UsageError as error:
        raise DataError(str(error)) from error
    return schema
