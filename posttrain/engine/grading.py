"""Graders by name with their options, of one answer or of many at once.

What a grader gives is taken as a number where it is a finite one. None and NaN are no verdict: whoever asked leaves the
answer out and counts it. A grader of one's own that fails ends the run, as a silent zero would be learnt from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any

from pydantic import BeforeValidator

from posttrain.functional.graders import Grader
from posttrain.functional.graders import grader as pure
from posttrain.schema.errors import PosttrainError, UsageError
from posttrain.schema.rows import Prompt

from .code import Code
from .judging import Judged

MORE = {"code": Code, "judge": Judged}
"""Graders that touch the machine or ask another, beside the pure ones."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Grading:
    """A grader that is called with an answer and its row, `asked` of it, or with `many` of them."""

    name: str
    score: Grader

    def __call__(self, output: str, row: Row) -> float | None:
        try:
            return self._number(self.score(output, row))
        except PosttrainError:
            raise
        except Exception as error:
            raise UsageError(
                f"The grader {self.name!r} failed on the answer {output[:60]!r} with {type(error).__name__}: {error}. "
                "Correct it, or let it return None where it has no verdict."
            ) from error

    def many(self, outputs: Sequence[str], rows: Sequence[Row]) -> list[float | None]:
        """The score of every answer, in order; at once where the grader can do that."""
        together = getattr(self.score, "many", None)
        if together is not None:
            return [self._number(score) for score in together(outputs, rows)]
        return [self(output, row) for output, row in zip(outputs, rows, strict=True)]

    def note(self) -> str:
        """What whoever runs this should know before; mostly nothing."""
        told = getattr(self.score, "note", None)
        return str(told()) if callable(told) else ""

    def _number(self, score: Any) -> float | None:
        if score is None:
            return None
        try:
            number = float(score)
        except (TypeError, ValueError) as error:
            raise UsageError(f"The grader {self.name!r} gave {score!r}. Return a number, or None.") from error
        return number if isfinite(number) else None


def grader(name: str, options: Mapping[str, Any] | None = None) -> Grading:
    """The grader of that name, or what `package.module:function` names. Raises UsageError when there is none, and for
    options that do not fit it."""
    return Grading(name, pure(name, options, MORE))


def named(said: Any) -> tuple[str, dict[str, Any]]:
    """(name, options) of a grader as recipes write it: `exact` or `{regex: {pattern: "^yes"}}`. Raises UsageError."""
    if isinstance(said, str):
        return said, {}
    if isinstance(said, Mapping) and len(said) == 1:
        ((name, options),) = said.items()
        if isinstance(options, Mapping | None):
            return str(name), dict(options or {})
    raise UsageError('A grader is a name, or a name with its options. Write `exact` or `{regex: {pattern: "^yes"}}`.')


def short_name(said: Any) -> str:
    """What a grader is called in a metric: its name, or the function of `package.module:function`."""
    return named(said)[0].rpartition(":")[2]


def asked(row: Prompt) -> dict[str, Any]:
    """A row as graders get it: its own columns, what was asked, and as `system` what the model was told before, if it was."""
    system = "\n".join(message.content for message in row.messages if message.role == "system")
    told = {"system": system} if system else {}
    return {"answer": row.answer, "task": row.task, "prompt": row.messages[-1].content, **told, **row.columns}


def known(said: Any) -> Any:
    """What is said, if it is nothing or a grader that there is: a typing mistake is found before anything is trained."""
    try:
        if said is not None:
            grader(*named(said))
    except UsageError as error:
        raise ValueError(str(error)) from error
    return said


GraderSpec = str | dict[str, dict[str, Any] | None]
GraderRef = Annotated[GraderSpec, BeforeValidator(known)]
"""A grader by name, or with its options."""
