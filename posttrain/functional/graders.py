"""Graders: what an answer is worth, from the text of a model and the row that asked for it. Pure, 0.0 or 1.0.

    exact      the same text, white space aside
    contains   the expected text occurs as words of its own, whatever the case
    number     the last number is the same: `1,080`, `-3`, `$18.00`, and GSM8K's `#### 18`
    choice     the same letter A-E: `B`, `(B)`, `The answer is B.`

A row holds what is expected as `answer`. A grader of your own is named as `package.module:function`.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from posttrain.schema.errors import DataError, UsageError, nearest
from posttrain.schema.find import dotted

Grader = Callable[[str, Mapping[str, Any]], float]

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


GRADERS: dict[str, Grader] = {"exact": exact, "contains": contains, "number": number, "choice": choice}


def grader(name: str) -> Grader:
    """The grader of that name, or what `package.module:function` names. Raises UsageError when there is none."""
    if name in GRADERS:
        return GRADERS[name]
    if ":" not in name:
        raise UsageError(
            f"There is no grader {name!r}. {nearest(name, GRADERS)} Or name your own as `module:function`."
        )
    found = dotted(name)
    if not callable(found):
        raise UsageError(f"{name!r} is no function. Name one that takes (output, row) and returns a number.")
    return found


def expected(row: Mapping[str, Any]) -> str:
    """The answer that a row expects, as text. Raises DataError for a row without."""
    if row.get("answer") is None:
        raise DataError("A row to be graded has no answer. Say which column holds it with `columns: {answer: …}`.")
    return str(row["answer"])


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
