"""What answers earn: functions that can verify them and models that have learnt what is preferred, weighted together.

    reward = weight_1 score_1 + weight_2 score_2 + ...

A part that gives None or NaN has no verdict; an answer without all its verdicts earns nothing and is not learnt from.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

from pydantic import BeforeValidator, Field, model_validator

from posttrain.data.batch import Batch
from posttrain.schema.rows import Prompt
from posttrain.schema.settings import Mark, Settings

Scores = dict[str, list[float | None]]


class Function(Settings):
    """A function that scores an answer."""

    name: str
    """What scores: a grader by name, or `package.module:function`, which takes (output, row)."""
    weight: float = 1.0
    """How much its score counts."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What the function is told beside, such as the `pattern` of a regex."""


def _as_function(value: Any) -> Any:
    """`exact`, `{number: {weight: 0.5}}` and `{regex: {pattern: "^yes"}}` are written in recipes."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1 and "name" not in value:
        ((name, said),) = value.items()
        said = dict(said or {})
        weight = {"weight": said.pop("weight")} if "weight" in said else {}
        return {"name": name, "options": said, **weight}
    return value


def _as_functions(value: Any) -> Any:
    return tuple(map(_as_function, value if isinstance(value, list | tuple) else [value]))


class Rewards(Settings):
    """What answers earn."""

    model: Annotated[str | None, Mark("model")] = None
    """A reward model: the name of a `reward` stage, or a folder."""
    model_weight: float = 1.0
    """How much the reward model's score counts."""
    functions: Annotated[tuple[Function, ...], BeforeValidator(_as_functions)] = ()
    """Functions that verify answers, as `exact` or `[number, {regex: {pattern: "^yes", weight: 0.5}}]`."""

    @model_validator(mode="after")
    def _something(self) -> "Rewards":
        if self.model is None and not self.functions:
            raise ValueError("nothing is rewarded: give `model: NAME` or `functions: [exact]`")
        return self


class Rewarder(Protocol):
    """Scores of answers by the name of what gave them; None where there is no verdict."""

    def __call__(self, rows: Sequence[Prompt], answers: Sequence[str], batch: Batch) -> Scores:
        """One score an answer, in the order of the batch's answers."""
