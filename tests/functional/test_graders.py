"""Graders against answers graded by hand."""

import json
import time
from decimal import Decimal

import pytest

from posttrain.functional.graders import choice, contains, exact, grader, last_number, letter, number
from posttrain.functional.patterns import LONGEST
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


@pytest.mark.parametrize("name", ("exact", "contains", "number", "choice"))
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


@pytest.mark.parametrize(
    ("pattern", "whole", "output", "score"),
    [
        ("^yes", False, "yes, it is", 1),
        ("^yes", False, "oh yes", 0),
        (r"\d+", True, " 18\n", 1),
        (r"\d+", True, "18 eggs", 0),
        ("(?i)arden", False, "In ARDEN.", 1),
        ("a.b", False, "a\nb", 0),
        ("红", False, "它是红的", 1),
        ("", False, "", 1),
    ],
)
def test_regex(pattern: str, whole: bool, output: str, score: float) -> None:
    assert grader("regex", {"pattern": pattern, "whole": whole})(output, {}) == score
    assert grader("regex", {"whole": whole})(output, {"pattern": pattern}) == score


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [r"(a|aa)+$", r"(\w+\s?)+$", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(a+a+)+b"])
def test_a_pattern_that_would_take_for_ever_has_no_verdict(pattern: str) -> None:
    begun = time.monotonic()
    assert grader("regex", {"pattern": pattern})("a" * 5000 + "!", {}) is None
    assert time.monotonic() - begun < 10


def test_a_text_without_end_has_no_verdict() -> None:
    assert grader("regex", {"pattern": "a"})("a" * (LONGEST + 1), {}) is None
    assert grader("regex", {"pattern": "a"})("a" * LONGEST, {}) == 1.0


ANSWER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("output", "score"),
    [
        ('{"n": 3}', 1),
        ('\n```json\n{"n": 3}\n```\n', 1),
        ('```\n{"n": 3}```', 1),
        ('Here it is: {"n": 3}', 0),
        ('{"n": 3} {"n": 4}', 0),
        ('```json\n{"n": 3}\n```\n```json\n{"n": 4}\n```', 0),
        ('{"n": "3"}', 0),
        ('{"n": 3.5}', 0),
        ('{"n": NaN}', 0),
        ("{'n': 3}", 0),
        ("", 0),
        ("[" * 100_000, 0),
        ("9" * 5_000, 0),
        ('{"n": 1e999}', 0),
    ],
)
def test_json_schema(output: str, score: float) -> None:
    assert grader("json_schema", {"schema": ANSWER})(output, {}) == score
    assert grader("json_schema")(output, {"schema": json.dumps(ANSWER)}) == score
    assert grader("json_schema")(output, {"schema": ANSWER}) == score


def test_a_schema_may_take_for_ever_too() -> None:
    slow = grader("json_schema", {"schema": {"type": "string", "pattern": "(a|aa)+$"}})
    assert slow(json.dumps("a" * 5000 + "!"), {}) is None


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("regex", {"patern": "a"}, r"'regex': there is no option 'patern'\. Did you mean 'pattern'\?"),
        ("exact", {"pattern": "a"}, r"'exact': there is no option 'pattern'\. It has none: leave it out\."),
        ("regex", {"pattern": "("}, r"no regular expression: .*written with a backslash"),
        ("regex", {"pattern": "a", "whole": "perhaps"}, r"'whole' does not fit: 'perhaps'"),
        ("json_schema", {"schema": {"typ": "object"}}, r"'typ' is not known\. Did you mean 'type'\?"),
        ("json_schema", {"schema": {"properties": {"a": {"type": "int"}}}}, r"schema\.properties\.a\.type: 'int'"),
        (f"{__name__}:nearly", {"of": 1, "wth": 2}, r"no option 'wth'\. Did you mean 'within'\?"),
        (f"{__name__}:nearly", {}, r"its option 'of' is missing"),
        ("rejex", {}, r"no grader 'rejex'\. Did you mean 'regex'\?"),
    ],
)
def test_options_that_do_not_fit(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        grader(name, options)


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("regex", {}, "has no pattern.*as the option `pattern`"),
        ("json_schema", {}, "has no schema"),
        ("json_schema", {"schema": "{"}, "schema is no JSON"),
        ("json_schema", {"schema": '{"oneOf": []}'}, "A row's schema: the keyword 'oneOf'"),
    ],
)
def test_rows_that_cannot_be_graded(name: str, row: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        grader(name)("5", row)


def nearly(output: str, row: dict[str, object], *, of: float, within: float = 0.5) -> float:
    return float(abs(float(output) - of) <= within)


def test_options_reach_a_grader_of_ones_own() -> None:
    name = f"{__name__}:nearly"
    assert grader(name, {"of": 3})("3.2", {}) == 1.0
    assert grader(name, {"of": 3, "within": 0.1})("3.2", {}) == 0.0
