"""Benchmark: ask a model questions, grade its answers, and give the rate with its interval.

Questions are rows with an answer; a grader turns an answer into a score from 0 to 1. Answers are drawn greedily, or at a
`temperature`: then a model is judged by all that it would say and not by its likeliest answer alone. The same model gives the
same answers either way. Rates get Wilson intervals, graded means bootstrapped ones; a row keeps its
number in every model's findings, so two models are compared pair by pair. An answer that the grader has no verdict on
is left out, and counted as `no_verdict`.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from posttrain.data.program import PromptProgram
from posttrain.data.read import read
from posttrain.engine.grading import GraderRef, asked, grader, named, short_name
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.functional.statistics import bootstrap_mean, groups, is_binary, wilson
from posttrain.models.load import load_format, load_policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import DataError
from posttrain.schema.findings import Findings, Graded, Metric
from posttrain.schema.rows import Prompt, Row, fingerprint
from posttrain.schema.settings import DatasetRef

METRIC_NAMES = {"exact": "exact_match"}


class Benchmark(Measure):
    """Grade a model's answers to questions."""

    reads: ClassVar[type[Row]] = Prompt

    data: DatasetRef
    """The questions, each with its answer."""
    grader: GraderRef = "exact"
    """How answers are scored: exact, number, contains, choice, regex, json_schema, code, judge, or `package.module:function`; with
    options as `{regex: {pattern: "^yes"}}`."""
    layout: Literal["own", "chat", "plain"] = "own"
    """How the model is asked: as it likes to be (`own`), or its prompt program put aside, in its chat format or as plain text."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(0.0, ge=0)
    """How far draws stray from the likeliest token; 0 takes the likeliest, 1 is the model itself."""

    def measure(self, job: Job, model: Model, **data: tuple[Dataset, ...]) -> Findings:
        policy = load_policy(model)
        form = load_format(model, policy.tokenizer)
        if self.layout != "own":
            form = load_format(model, policy.tokenizer, PromptProgram(layout=self.layout))
        rows = [row for dataset in data["data"] for row in read(dataset, Prompt).rows]
        sampler = TransformersSampler(policy, form.stop_ids, watch=lambda done: job.answered(done, len(rows)))
        sampling = Sampling(max_new_tokens=self.max_new_tokens, temperature=self.temperature)
        answers = sampler.sample([form.ask(row) for row in rows], sampling, job.seed)
        if note := grader(*named(self.grader)).note():
            job.note(note)
        samples, unsaid = self._graded(rows, [form.read_answer(ids) for ids in answers])
        name = short_name(self.grader)
        metrics = _metrics(METRIC_NAMES.get(name, name), samples) | unsaid
        lengths = bootstrap_mean([len(ids) for ids in answers])
        metrics["answer_tokens"] = Metric(
            lengths.value, lengths.n, lengths.low, lengths.high, unit="count", better="none"
        )
        return Findings("benchmark", "benchmark", metrics, samples)

    def _graded(self, rows: Sequence[Prompt], outputs: Sequence[str]) -> tuple[tuple[Graded, ...], dict[str, Metric]]:
        """The answers that have a verdict, and how many have none, if any. Raises DataError when none has."""
        scores = grader(*named(self.grader)).many(outputs, [asked(row) for row in rows])
        samples = tuple(
            Graded(fingerprint(row), score, row.messages[-1].content, row.answer or "", output, row.task)
            for row, output, score in zip(rows, outputs, scores, strict=True)
            if score is not None
        )
        if rows and not samples:
            raise DataError(
                f"The grader {short_name(self.grader)!r} has no verdict on any of {len(rows)} answers. Try it on one."
            )
        n_unsaid = len(rows) - len(samples)
        return samples, {"no_verdict": Metric(n_unsaid, len(rows), unit="count", better="lower")} if n_unsaid else {}


def _metrics(name: str, samples: Sequence[Graded]) -> dict[str, Metric]:
    """The rate over all rows, and over the rows of each task where there is more than one."""
    scores, tasks = [sample.score for sample in samples], groups([sample.task for sample in samples])
    return {name: _rate(scores)} | {f"{name}/{task}": _rate([scores[n] for n in at]) for task, at in tasks.items()}


def _rate(scores: Sequence[float]) -> Metric:
    return Metric.of(wilson(sum(scores), len(scores)) if is_binary(scores) else bootstrap_mean(scores))
