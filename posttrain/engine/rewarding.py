"""What answers earn: functions that can verify them and models that have learnt what is preferred, weighted together.

    reward = weight_1 score_1 + weight_2 score_2 + ...

A part that gives None or NaN has no verdict; an answer without all its verdicts earns nothing and is not learnt from.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BeforeValidator, Field, model_validator

from posttrain.data.batch import Batch
from posttrain.data.chat import ChatFormat
from posttrain.functional.layout import Branch, Tree
from posttrain.models.scorer import Scorer
from posttrain.schema.rows import Message, Prompt
from posttrain.schema.settings import Mark, Settings

from .grading import grader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL = "model"
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


class Rewarding:
    """Scores answers. `scorer` is the reward model, `form` how it is talked to; `shared` says that it reads the very
    tokens that the policy wrote, as both have one tokenizer and one chat template."""

    def __init__(
        self, rewards: Rewards, scorer: Scorer | None = None, form: ChatFormat | None = None, shared: bool = True
    ) -> None:
        self.scorer, self.form, self.shared = scorer, form, shared
        self.functions = {function.name: grader(function.name, function.options) for function in rewards.functions}
        self.weights = {function.name: function.weight for function in rewards.functions}
        if rewards.model is not None:
            self.weights[MODEL] = rewards.model_weight

    def scores(self, rows: Sequence[Prompt], answers: Sequence[str], batch: Batch) -> Scores:
        """One score an answer by the name of what gave it, in the order of the batch's answers; None where there is no
        verdict."""
        asked = [row_of(row) for row in rows]
        found: Scores = {
            name: [_finite(score(answer, row)) for answer, row in zip(answers, asked, strict=True)]
            for name, score in self.functions.items()
        }
        if self.scorer is not None:
            found[MODEL] = [_finite(value) for value in self._by_model(rows, answers, batch)]
        return found

    def total(self, scores: Scores) -> list[float | None]:
        """The weighted sum of each answer's scores; None where one of them is missing."""
        columns = zip(*(((self.weights[name], score) for score in each) for name, each in scores.items()), strict=True)
        return [
            None
            if any(score is None for _, score in parts)
            else sum(weight * (score or 0.0) for weight, score in parts)
            for parts in columns
        ]

    @torch.no_grad()
    def _by_model(self, rows: Sequence[Prompt], answers: Sequence[str], batch: Batch) -> list[float]:
        assert self.scorer is not None and self.form is not None
        if self.shared:
            return self.scorer.rewards(batch).tolist()
        trees = []
        for row, answer in zip(rows, answers, strict=True):
            asked, said = self.form.answer(row.messages, (Message("assistant", answer),), row.tools)
            room = max(self.scorer.context - len(asked), 0)
            trees.append(Tree(tuple(asked), (Branch(tuple(said[:room]), (True,) * len(said[:room])),)))
        return self.scorer.rewards(Batch(tuple(trees))).tolist()


def row_of(row: Prompt) -> dict[str, Any]:
    """A row as graders and judges get it."""
    return {**row.columns, "answer": row.answer, "task": row.task, "prompt": row.messages[-1].content}


def read_alike(one: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase") -> bool:
    """Whether two models read a conversation as the same tokens."""
    return one.chat_template == other.chat_template and one.get_vocab() == other.get_vocab()


def _finite(score: float | None) -> float | None:
    return None if score is None or not math.isfinite(score) else float(score)
