"""The grader `judge`: a model behind an address grades every answer by a rubric, from 0 to 1.

Its options are those of a judge (`models.judge.Judging`), `endpoint` among them. Answers without a verdict get None.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from posttrain.models.judge import Judge, Judging, load_judge
from posttrain.schema.errors import UsageError
from posttrain.schema.settings import problems


class Judged:
    """Grades many answers at once. Raises UsageError for options that make no judge."""

    def __init__(self, **options: Any) -> None:
        for _, problem in problems(Judging, options):
            raise UsageError(f"grader 'judge': {problem.message}")
        self.settings = Judging.model_validate(options)
        if self.settings.endpoint is None:
            raise UsageError(
                "grader 'judge': it asks a model behind an address. Give `endpoint: {url: http://HOST/v1, model: NAME}`."
            )

    @cached_property
    def judge(self) -> Judge:
        """Made when first asked: only then its key must be known."""
        return load_judge(self.settings, None)

    def __call__(self, output: str, row: Mapping[str, Any]) -> float | None:
        return self.many([output], [row])[0]

    def many(self, outputs: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """The grade of every answer, in order."""
        return self.judge.grade_all([(str(row["prompt"]), output) for output, row in zip(outputs, rows, strict=True)])
