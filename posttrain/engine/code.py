"""The grader `code`: an answer's code is run with tests on it in the sandbox, and is worth 1.0 when they pass.

    answer   the last fenced block that defines something, else the last one, else all of it; what stands before
             `</think>` is thought, not answered
    tests    the row's `tests` or `test` (text, or a list of statements), else the option `tests`; where the row has an
             `entry_point`, `check(entry_point)` is called behind them

Tests that call nothing would pass for every answer, so they are refused.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from posttrain.schema.errors import DataError

from .sandbox import Sandbox, walls

FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
PYTHON = frozenset({"", "python", "py", "python3"})
DEFINES = re.compile(r"^\s*(?:async\s+def|def|class)\s", re.MULTILINE)
COLUMNS = ("tests", "test")
IDLE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)
"""Statements that test nothing by themselves; so are assignments and remarks without a call in them."""


@dataclass(frozen=True)
class Code:
    """1.0 when an answer's code passes the row's tests in the sandbox, else 0.0."""

    tests: str | None = None
    """Python that fails when an answer is wrong, for rows that bring no `tests` of their own."""
    seconds: Annotated[int, Field(ge=1)] = 5
    """CPU time that code and tests may take together, in whole seconds."""
    wall_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Time on the clock that they may take, in seconds."""
    memory_mb: Annotated[int, Field(ge=64)] = 512
    """Memory that they may take, in MiB."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Answers that are run at once; as many as there are cores if not given."""

    def __post_init__(self) -> None:
        if self.tests is not None:
            check_tests(self.tests)

    def __call__(self, output: str, row: Mapping[str, Any]) -> float:
        return self.many([output], [row])[0]

    def many(self, outputs: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """The score of every answer, in order. Raises DataError for a row without tests, MachineError without a sandbox."""
        pairs = [(code_in(output), self.tests_of(row)) for output, row in zip(outputs, rows, strict=True)]
        if pairs:
            walls()
        sandbox = Sandbox(self.seconds, self.wall_seconds, self.memory_mb, self.workers)
        return [float(outcome.passed) for outcome in sandbox.run_all(pairs)]

    def tests_of(self, row: Mapping[str, Any]) -> str:
        """The tests that a row is judged by. Raises DataError."""
        said = next((row[name] for name in COLUMNS if row.get(name)), self.tests)
        if not said:
            raise DataError(
                "A row to be graded has no tests. Name their column with `columns: {tests: …}`, or give some for all rows "
                "as the option `tests`."
            )
        text = "\n".join(map(str, said)) if isinstance(said, list | tuple) else str(said)
        if isinstance(row.get("entry_point"), str):
            text += f"\ncheck({row['entry_point']})"
        check_tests(text)
        return text

    def note(self) -> str:
        """What whoever runs this should know of the machine; empty where all walls of the sandbox stand."""
        missing = [name for name in ("calls", "files") if name not in walls()]
        return (
            f"Answers' code runs here without the sandbox's wall around {' and '.join(missing)}: a fence alone holds what "
            "they may do. Run it in a container, or on Linux with seccomp and Landlock."
            if missing
            else ""
        )


def code_in(output: str) -> str:
    """The code that an answer gives."""
    answer = output.rpartition("</think>")[2]
    blocks = [code for language, code in FENCE.findall(answer) if language.lower() in PYTHON]
    if not blocks:
        return answer
    return next((code for code in reversed(blocks) if DEFINES.search(code)), blocks[-1])


def check_tests(text: str) -> None:
    """Raises DataError for tests that are no Python, and for such as test nothing."""
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"The tests {text[:60]!r} are no Python: {error}. Correct them.") from error
    if not any(_acts(statement) for statement in statements):
        raise DataError(
            f"The tests {text[:60]!r} define things and test nothing, so that every answer would pass. Call them at the "
            "end, or give the name of the function that is tested as the column `entry_point`."
        )


def _acts(statement: ast.stmt) -> bool:
    if isinstance(statement, IDLE):
        return False
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr):
        return any(isinstance(node, ast.Call | ast.Await) for node in ast.walk(statement))
    return True
