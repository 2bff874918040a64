"""Which rows are kept: those whose columns fit, and whose text is neither too short nor too long.

    where: {lang: en}                   equal; a text of a CSV file equals the number or truth value it spells
    where: {source: [web, books]}       one of several
    where: {score: {min: 3, max: 5}}    a number from .. to

Length is counted in characters, over all of a row's texts, so that no tokenizer and no language is needed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.schema.errors import DataError, nearest
from posttrain.schema.rows import Message, Row, Text, Tokenised, TokenisedPair, messages_in

from .cells import LeftOut
from .columns import plainly


def check_columns(where: Mapping[str, Any], sample: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raises DataError for a condition on a column that none of the first rows has."""
    columns = {name for row in sample for name in row}
    for name in where:
        if name not in columns:
            hint = nearest(name, map(plainly, columns))
            raise DataError(f"`where` asks for the column {name!r}, which {path} does not have. {hint}")


def check(where: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
    """Raises LeftOut for a row that does not fit."""
    for name, wanted in where.items():
        if not _fits(columns.get(name), wanted):
            raise LeftOut(f"`{plainly(name)}` does not fit")


def _fits(cell: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        number = _number(cell)
        low, high = wanted.get("min"), wanted.get("max")
        return number is not None and (low is None or number >= low) and (high is None or number <= high)
    if isinstance(wanted, list | tuple):
        return any(_equal(cell, each) for each in wanted)
    return _equal(cell, wanted)


def _equal(cell: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(cell, bool):
        return str(cell).strip().lower() == str(wanted).strip().lower()
    if isinstance(wanted, int | float):
        return _number(cell) == wanted
    return bool(cell == wanted)


def _number(cell: Any) -> float | None:
    try:
        return None if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
        return None


def misfit(row: Row, low: int | None, high: int | None) -> str:
    """Why the row's length does not fit, or nothing."""
    if low is None and high is None:
        return ""
    if isinstance(row, Tokenised | TokenisedPair):
        raise DataError("Rows of token ids have no characters. Leave `min_chars` and `max_chars` out.")
    n = len(text_in(row))
    if low is not None and n < low:
        return f"shorter than {low} characters"
    return f"longer than {high} characters" if high is not None and n > high else ""


def text_in(row: Row) -> str:
    """All texts of a row, a line apart; token ids as numbers."""
    match row:
        case Text(text=text):
            return text
        case Tokenised(ids=ids):
            return " ".join(map(str, ids))
        case TokenisedPair(prompt=prompt, chosen=chosen, rejected=rejected):
            return " ".join(map(str, prompt + chosen + rejected))
    return "\n".join(text for message in messages_in(row) for text in _texts(message))


def _texts(message: Message) -> tuple[str, ...]:
    return (message.reasoning, message.content, *(f"{call.name} {call.arguments}" for call in message.tool_calls))
