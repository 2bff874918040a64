"""Win rate: how often a model's answers are better than those that the rows hold.

    win rate = (wins + ties / 2) / (wins + ties + losses)            with Wilson's interval

A judge decides, asked with both answers in either order (`models.judge`), or a rule: a grader that scores both, and the
higher score wins. Answers are drawn greedily. One without a verdict is left out and counted as `no_verdict`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from posttrain.data.read import read
from posttrain.engine.grading import GraderSpec, asked, grader, known, named
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.functional.statistics import groups, wilson
from posttrain.models.judge import Judge, Judging, load_judge
from posttrain.models.load import load_format, load_policy
from posttrain.models.questions import Preferred, spoken
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import DataError
from posttrain.schema.findings import Findings, Graded, Metric
from posttrain.schema.rows import Prompt, Row, fingerprint
from posttrain.schema.settings import DatasetRef

WORTH: dict[Preferred, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}
"""What a verdict is worth to the model, whose answer is the first."""
AT_ONCE = 16  # rows that a judge is asked about before it is told how far it is
Verdicts = Sequence[Preferred | None]


class WinRate(Measure):
    """How often a model's answers beat the rows' own."""

    reads: ClassVar[type[Row]] = Prompt

    data: DatasetRef
    """The questions, each with the answer to beat."""
    judge: Judging | None = None
    """The model that decides, as `{model: FOLDER}` or `{endpoint: {url: http://localhost:8000/v1, model: NAME}}`."""
    rule: Annotated[GraderSpec | None, BeforeValidator(known)] = None
    """The grader that decides instead, by scoring both answers."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""

    @model_validator(mode="after")
    def _one_decides(self) -> "WinRate":
        if (self.judge is None) == (self.rule is None):
            raise ValueError("somebody must decide: give either `judge: {model: NAME}` or `rule: GRADER`")
        return self

    def measure(self, job: Job, model: Model, **given: Any) -> Findings:
        datasets: tuple[Dataset, ...] = given["data"]
        rows = [row for dataset in datasets for row in read(dataset, Prompt).rows]
        if any(row.answer is None for row in rows):
            raise DataError("A row has no answer to beat. Say which column holds it with `columns: {answer: …}`.")
        answers = self._answers(job, model, rows)
        judge = load_judge(self.judge, given.get("judge.model"), job.seed) if self.judge else None
        verdicts = _judged(judge, job, rows, answers) if judge else self._by_rule(job, rows, answers)
        counts = dict(judge.counts) if judge else {}
        samples = tuple(
            Graded(fingerprint(row), WORTH[said], row.messages[-1].content, row.answer or "", answer, row.task)
            for row, answer, said in zip(rows, answers, verdicts, strict=True)
            if said is not None
        )
        if rows and not samples:
            why = ", ".join(f"{name}: {n}" for name, n in counts.items()) or "the rule has none"
            raise DataError(
                f"There is no verdict on any of {len(rows)} answers ({why}). Take a judge that ends as it is asked to, or "
                "another rule."
            )
        notes = {"judge": counts} if judge else {}
        return Findings("win_rate", "win_rate", _metrics(verdicts, samples, counts), samples, notes)

    def _answers(self, job: Job, model: Model, rows: Sequence[Prompt]) -> list[str]:
        """The model's answer to every row. Its weights are not kept: a judge may need the room."""
        policy = load_policy(model)
        form = load_format(model, policy.tokenizer)
        sampler = TransformersSampler(policy, form.stop_ids, watch=lambda done: job.answered(done, len(rows)))
        drawn = sampler.sample([form.ask(row) for row in rows], Sampling(max_new_tokens=self.max_new_tokens), job.seed)
        return [form.read_answer(ids) for ids in drawn]

    def _by_rule(self, job: Job, rows: Sequence[Prompt], answers: Sequence[str]) -> Verdicts:
        """The better score wins; an answer that has none leaves its row without a verdict."""
        rule, told = grader(*named(self.rule)), [asked(row) for row in rows]
        if note := rule.note():
            job.note(note)
        scores = zip(rule.many(answers, told), rule.many([row.answer or "" for row in rows], told), strict=True)
        return [None if own is None or other is None else _higher(own, other) for own, other in scores]


def _higher(own: float, other: float) -> Preferred:
    return "tie" if own == other else "first" if own > other else "second"


def _judged(judge: Judge, job: Job, rows: Sequence[Prompt], answers: Sequence[str]) -> Verdicts:
    triples = [(spoken(row.messages), answer, row.answer or "") for row, answer in zip(rows, answers, strict=True)]
    found: list[Preferred | None] = []
    for start in range(0, len(triples), AT_ONCE):
        found += judge.compare_all(triples[start : start + AT_ONCE])
        job.answered(len(found), len(triples))
    return found


def _metrics(verdicts: Verdicts, samples: Sequence[Graded], counts: Mapping[str, int]) -> dict[str, Metric]:
    """The rate over all rows and, where there are several, of each task; how it comes about."""
    scores, tasks = [sample.score for sample in samples], groups([sample.task for sample in samples])
    metrics = {"win_rate": _rate(scores)}
    metrics |= {f"win_rate/{task}": _rate([scores[n] for n in at]) for task, at in tasks.items()}
    n = len(verdicts)
    return metrics | {
        "wins": Metric(verdicts.count("first"), n, unit="count"),
        "ties": Metric(verdicts.count("tie"), n, unit="count", better="none"),
        "losses": Metric(verdicts.count("second"), n, unit="count", better="lower"),
        "no_verdict": Metric(verdicts.count(None), n, unit="count", better="lower"),
        **(
            {"orders_disagree": Metric(counts.get("orders disagree", 0), n, unit="count", better="lower")}
            if counts
            else {}
        ),
    }


def _rate(scores: Sequence[float]) -> Metric:
    return Metric.of(wilson(sum(scores), len(scores)))
