"""Graders against answers graded by hand."""

from decimal import Decimal

import pytest

from posttrain.functional.graders import GRADERS, choice, contains, exact, grader, last_number, letter, number
from posttrain.schema.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("output", "answer", "score"),
    [
        (" rako\n", "rako", 1),
        ("a  b\tc", "a b c", 1),
        ("Rako", "rako", 0),
        ("rako.", "rako", 0),
        ("", "", 1),
        ("7", 7, 1),
    ],
)
def test_exact(output: str, answer: object, score: float) -> None:
    assert exact(output, {"answer": answer}) == score


@pytest.mark.parametrize(
    ("output", "answer", "score"),
    [
        ("Tom lives in Arden.", "arden", 1),
        ("I know.", "no", 0),
        ("no, I do not", "no", 1),
        ("it is 15", "5", 0),
        ("red\nand  blue", "red and blue", 1),
        ("它是红的", "红", 1),
        ("a+b", "a+b", 1),
    ],
)
def test_contains(output: str, answer: str, score: float) -> None:
    assert contains(output, {"answer": answer}) == score


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"),
        ("#### 18\nQuestion: 5", "18"),
        ("the total is 1,080.", "1080"),
        ("It costs $1,234,567.50 in all", "1234567.50"),
        ("-3", "-3"),
        ("\u22123 degrees", "-3"),
        ("it is -$4", "-4"),
        ("5-3", "3"),
        ("5 - 3 = 2.", "2"),
        ("1,2,3", "3"),
        ("3.0", "3"),
        ("well...18", "18"),
        ("0.5", "0.5"),
        ("50%", "50"),
        ("٣", None),
        ("none", None),
        ("", None),
        ("#### none 4", "4"),
        ("4 ####", None),
    ],
)
def test_last_number(text: str, value: str | None) -> None:
    assert last_number(text) == (None if value is None else Decimal(value))


def test_number_compares_values() -> None:
    assert number("So there are 18.0 eggs", {"answer": "9 * 2 = 18\n#### 18"}) == 1.0
    assert number("17 or 18?", {"answer": "17"}) == 0.0
    assert number("none", {"answer": "none"}) == 0.0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("B", "B"),
        (" (A)", "A"),
        ("(b)", None),
        ("The answer is C.", "C"),
        ("the answer: (d)", "D"),
        ("Answer is A, not B", "A"),
        ("B) because of it", "B"),
        ("A dog ran", None),
        ("It is either (A) or (B)", "B"),
        ("I choose E.", "E"),
        ("Because", None),
        ("", None),
    ],
)
def test_letter(text: str, named: str | None) -> None:
    assert letter(text) == named


def test_choice_needs_a_letter_on_both_sides() -> None:
    assert choice("The answer is (B)", {"answer": " (B)"}) == 1.0
    assert choice("C", {"answer": "B"}) == 0.0
    assert choice("who knows", {"answer": "who knows"}) == 0.0


@pytest.mark.parametrize("name", GRADERS)
def test_a_row_without_an_answer_is_no_zero(name: str) -> None:
    with pytest.raises(DataError, match=r"columns: \{answer: …\}"):
        grader(name)("5", {"question": "2+3", "answer": None})


def test_a_grader_of_ones_own() -> None:
    assert grader("operator:eq") is __import__("operator").eq
    with pytest.raises(UsageError, match=r"no grader 'exac'\. Did you mean 'exact'\?"):
        grader("exac")
    with pytest.raises(UsageError, match="importable from here"):
        grader("operator:missing")
    with pytest.raises(UsageError, match="is no function"):
        grader("math:pi")
