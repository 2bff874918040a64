"""Answers that hold code, and rows that hold tests."""

import pytest

from posttrain.engine.code import check_tests, code_in
from posttrain.engine.grading import grader
from posttrain.schema.errors import DataError, UsageError

RIGHT = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return a - b\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1\n```\n```bash\nls\n```", "x = 1\n"),
        (f"```python\n{RIGHT}```\nUse it:\n```python\nprint(add(1, 2))\n```", RIGHT),
        (f"First:\n```python\n{WRONG}```\nNo:\n```python\n{RIGHT}```", RIGHT),
        (f"<think>\n```python\n{WRONG}```\n</think>\n```python\n{RIGHT}```", RIGHT),
        (f"<think>```python\n{WRONG}```</think>x = 1", "x = 1"),
        (f"```python\n{RIGHT}", RIGHT),
        ("```bash\nls\n```", "```bash\nls\n```"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("", ""),
    ],
)
def test_the_code_of_an_answer(answer: str, code: str) -> None:
    assert code_in(answer) == code


def test_answers_are_worth_what_their_tests_say() -> None:
    score, row = grader("code", {"seconds": 2, "workers": 2}), {"tests": "assert add(2, 3) == 5"}
    answers = [f"```python\n{RIGHT}```", WRONG, "no code", "", "import os; os._exit(0)"]
    assert score.many(answers, [row] * 5) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert score(RIGHT, row) == 1.0


UNITTEST = """import unittest
class T(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(2, 3), 5)
assert unittest.main("answer", argv=[""], exit=False).result.wasSuccessful()"""


@pytest.mark.parametrize(
    "row",
    [
        {"tests": UNITTEST},
        {"tests": ["assert add(2, 3) == 5", "assert add(0, 0) == 0"]},
        {"test": "def check(candidate):\n    assert candidate(2, 3) == 5", "entry_point": "add"},
        {"tests": "assert add(2, 3) == 5", "test": "assert False"},
    ],
)
def test_where_rows_keep_their_tests(row: dict[str, object]) -> None:
    assert grader("code").many([RIGHT, WRONG], [row, row]) == [1.0, 0.0]


def test_tests_for_rows_that_bring_none() -> None:
    score = grader("code", {"tests": "assert add(2, 3) == 5"})
    assert score.many([RIGHT, RIGHT], [{}, {"tests": "assert add(2, 3) == 6"}]) == [1.0, 0.0]
    with pytest.raises(DataError, match=r"has no tests\. Name their column with `columns: \{tests: …\}`"):
        grader("code")(RIGHT, {"tests": None})


@pytest.mark.parametrize(
    "tests", ["def check(f):\n    assert f(1)", "x = 1", "'''words'''", "", "pass", "class T: pass"]
)
def test_tests_that_test_nothing_are_refused(tests: str) -> None:
    with pytest.raises(DataError, match=r"test nothing, so that every answer would pass.*entry_point"):
        check_tests(tests)


@pytest.mark.parametrize(
    "tests", ["assert f(1)", "check(f)", "x = f(1)", "for n in range(3): assert f(n)", "if f(1): raise OSError"]
)
def test_tests_that_test_something(tests: str) -> None:
    check_tests(tests)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tests": "assert ("}, "are no Python"),
        ({"tests": "x = 1"}, "test nothing"),
        ({"second": 1}, r"no option 'second'\. Did you mean 'seconds'\?"),
        ({"seconds": 0}, "'seconds' does not fit: 0"),
        ({"memory_mb": "much"}, "'memory_mb' does not fit"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        grader("code", options)


def test_who_runs_it_is_told_of_missing_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.engine import code

    monkeypatch.setattr(code, "walls", lambda: ("files", "calls"))
    assert grader("code").note() == grader("exact").note() == ""
    monkeypatch.setattr(code, "walls", lambda: ("files",))
    assert "without the sandbox's wall around calls" in grader("code").note()
