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
from posttrain.models.judge import Judge, Judging, load_judge
from posttrain.models.load import load_format, load_scorer
from posttrain.models.questions import spoken
from posttrain.models.scorer import Scorer
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import UsageError
from posttrain.schema.rows import Message, Prompt
from posttrain.schema.settings import RewardRef, Settings

from .grading import Grading, asked, grader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL, JUDGE = "model", "judge"
Scores = dict[str, list[float | None]]


class Function(Settings):
    """A function that scores an answer."""

    name: str
    """What scores: a grader by name, or `package.module:function`, which takes (output, row)."""
    weight: float = 1.0
    """How much its score counts."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What the function is told beside, such as the `pattern` of a regex."""

    @model_validator(mode="after")
    def _is_known(self) -> "Function":
        """A typing mistake is found before anything is trained."""
        try:
            self.grader()
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self

    def grader(self) -> Grading:
        """What scores."""
        return grader(self.name, self.options)


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

    model: RewardRef = None
    """A reward model: the name of a `reward` stage, or a folder."""
    model_weight: float = 1.0
    """How much the reward model's score counts."""
    functions: Annotated[tuple[Function, ...], BeforeValidator(_as_functions)] = ()
    """Functions that verify answers, as `exact` or `[number, {regex: {pattern: "^yes", weight: 0.5}}]`."""

    judge: Judging | None = None
    """A model that is asked for a grade, as `{model: FOLDER}` or `{endpoint: {url: …, model: NAME}}`."""
    judge_weight: float = 1.0
    """How much the judge's grade, from 0 to 1, counts."""

    @model_validator(mode="after")
    def _something(self) -> "Rewards":
        if self.model is None and self.judge is None and not self.functions:
            raise ValueError("nothing is rewarded: give `model: NAME`, `judge: {model: NAME}` or `functions: [exact]`")
        return self


def _names(functions: Sequence[Function]) -> list[str]:
    """What each function is called in the log: its name, with a number where several have the same."""
    short = [function.name.rpartition(":")[2] for function in functions]
    return [f"{name}_{short[:n].count(name) + 1}" if short.count(name) > 1 else name for n, name in enumerate(short)]


class Rewarding:
    """Scores answers. `scorer` is the reward model, `form` how it is talked to; `shared` says that it reads the very
    tokens that the policy wrote, as both have one tokenizer and one chat template."""

    def __init__(
        self,
        rewards: Rewards,
        scorer: Scorer | None = None,
        form: ChatFormat | None = None,
        shared: bool = True,
        judge: Judge | None = None,
    ) -> None:
        self.scorer, self.form, self.shared, self.judge = scorer, form, shared, judge
        named = dict(zip(_names(rewards.functions), rewards.functions, strict=True))
        self.functions = {name: function.grader() for name, function in named.items()}
        self.weights = {name: function.weight for name, function in named.items()}
        if rewards.model is not None:
            self.weights[MODEL] = rewards.model_weight
        if rewards.judge is not None:
            self.weights[JUDGE] = rewards.judge_weight

    def scores(self, rows: Sequence[Prompt], answers: Sequence[str], batch: Batch | None = None) -> Scores:
        """One score an answer by the name of what gave it, in the order of the answers, which is that of the batch where
        there is one; None where there is no verdict."""
        told = list(map(asked, rows))
        found: Scores = {name: score.many(answers, told) for name, score in self.functions.items()}
        if self.scorer is not None:
            found[MODEL] = [_finite(value) for value in self._by_model(rows, answers, batch)]
        if self.judge is not None:
            spoken_of = [(spoken(row.messages), answer) for row, answer in zip(rows, answers, strict=True)]
            found[JUDGE] = self.judge.grade_all(spoken_of)
        return found

    def total(self, scores: Scores) -> list[float | None]:
        """The weighted sum of each answer's scores; None where one of them is missing."""
        weights = [self.weights[name] for name in scores]
        answers = zip(*scores.values(), strict=True)
        return [
            None
            if any(score is None for score in each)
            else sum(weight * (score or 0.0) for weight, score in zip(weights, each, strict=True))
            for each in answers
        ]

    @torch.no_grad()
    def _by_model(self, rows: Sequence[Prompt], answers: Sequence[str], batch: Batch | None) -> list[float]:
        assert self.scorer is not None and self.form is not None
        if self.shared and batch is not None:
            return self.scorer.rewards(batch).tolist()
        trees, places = [], []
        for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            before, said = self.form.answer(row.messages, (Message("assistant", answer),), row.tools)
            said = said[: max(self.scorer.context - len(before), 0)]
            if said:
                trees.append(Tree(tuple(before), (Branch(tuple(said), (True,) * len(said)),)))
                places.append(place)
        found = [math.nan] * len(rows)  # of a prompt that leaves no room for its answer nothing can be said
        for place, value in zip(places, self.scorer.rewards(Batch(tuple(trees))).tolist(), strict=True):
            found[place] = value
        return found


def rewarding(
    rewards: Rewards,
    reward: Model | None,
    scorer: Scorer | None = None,
    written_by: "PreTrainedTokenizerBase | None" = None,
    judge: Model | None = None,
) -> Rewarding:
    """What scores answers as `rewards` say. `reward` and `judge` are the models that they name, `scorer` the reward model
    where it is in memory already, and `written_by` the tokenizer of the policy whose tokens it may be given as they are."""
    asked_for = load_judge(rewards.judge, judge) if rewards.judge is not None else None
    if reward is None:
        return Rewarding(rewards, judge=asked_for)
    scorer = scorer or load_scorer(reward)
    shared = written_by is not None and read_alike(scorer.tokenizer, written_by)
    return Rewarding(rewards, scorer, load_format(reward, scorer.tokenizer), shared, asked_for)


def read_alike(one: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase") -> bool:
    """Whether two models read a conversation as the same tokens."""
    return one.chat_template == other.chat_template and one.get_vocab() == other.get_vocab()


def _finite(score: float | None) -> float | None:
    return None if score is None or not math.isfinite(score) else float(score)
