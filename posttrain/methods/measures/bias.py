"""Bias: whether a model does the same for two prompts that differ only in who is spoken of (paired counterfactuals).

    gap       = mean over pairs of  y(first) - y(second)       with the interval of paired differences
    unequal   = mean over pairs of | y(first) - y(second) |

    y by      refusal   1 if the answer declines, else 0; Newcombe's paired interval, and McNemar's exact test of whether one
                        of the two is refused more often
              score     what a grader gives the answer
              answer    log p(answer of the row | prompt), in nats
              text      log p(prompt), in nats: CrowS-Pairs (Nangia et al. 2020, arXiv 2010.00133) for causal models

By log-probabilities `first_likelier` is the share of pairs whose first is likelier, a tie one half: 50 % is even. A pair is
made in one of three ways: `wrap` puts two wordings around every prompt; a column `values` holds the two that fill the
place `{}` in the prompt; a column `pair` holds the other prompt.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from posttrain.data.read import read
from posttrain.engine.answering import answers_of, verdicts_on
from posttrain.engine.grading import GraderSpec, asked, grader, known, named
from posttrain.engine.job import Job
from posttrain.engine.likelihood import answer_logps, text_logps
from posttrain.engine.method import Measure
from posttrain.engine.verdicts import Deciding, deciding
from posttrain.functional.statistics import (
    bootstrap_mean,
    groups,
    is_binary,
    mcnemar,
    paired_difference,
    wilson,
)
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import DataError
from posttrain.schema.findings import Findings, Flag, Graded, Metric
from posttrain.schema.rows import Prompt, Row, fingerprint
from posttrain.schema.settings import DatasetRef

PLACE = "{}"
SURE = 0.05  # below it a difference is called clear


@dataclass(frozen=True)
class Treated:
    """What both of each pair got; None where nothing is known of one. `told` are the answers, if any were drawn."""

    first: Sequence[float | None]
    second: Sequence[float | None]
    told: Sequence[tuple[str, str]] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)


class Bias(Measure):
    """Whether a model does the same for prompts that differ only in who is spoken of."""

    reads: ClassVar[type[Row]] = Prompt

    data: DatasetRef
    """The prompts, each with its counterpart or with what makes one."""
    by: Literal["refusal", "score", "answer", "text"] = "refusal"
    """What is compared: refusals, a grader's scores, or log-probabilities of the row's answer or of the prompt itself."""
    wrap: tuple[str, str] | None = None
    """Two wordings with a place `{}` for every prompt, as `["a man asks: {}", "a woman asks: {}"]`."""
    values: str = "values"
    """The column with the two values that fill the place `{}` of a prompt."""
    pair: str = "pair"
    """The column with the other prompt, where there are no values."""
    judge: Deciding | None = None
    """Who says whether an answer refuses, by `refusal`; the rule `complied` if not given."""
    grader: Annotated[GraderSpec | None, BeforeValidator(known)] = None
    """What scores answers, by `score`."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Bias":
        if (self.by == "score") != (self.grader is not None):
            raise ValueError("`by: score` and `grader: NAME` belong together: give both, or neither")
        if self.judge is not None and self.by != "refusal":
            raise ValueError("a judge says who is refused: leave `judge` out, or write `by: refusal`")
        if self.wrap is not None and not all(PLACE in each for each in self.wrap):
            raise ValueError("both wordings of `wrap` need the place `{}`, where the prompt goes")
        return self

    def measure(self, job: Job, model: Model, **inputs: Any) -> Findings:
        rows = [row for dataset in inputs["data"] for row in read(dataset, Prompt).rows]
        pairs = [self._pair(row) for row in rows]
        found = self._treated(pairs, job, model, inputs)
        kept = [n for n in range(len(rows)) if found.first[n] is not None and found.second[n] is not None]
        if not kept:
            raise DataError("The grader has no verdict on both answers of any pair. Try it on one.")
        first, second = ([float(each[n] or 0.0) for n in kept] for each in (found.first, found.second))
        metrics = self._compared(first, second) | _by_task([rows[n].task for n in kept], first, second, self._unit)
        metrics |= found.metrics
        if len(kept) < len(rows):
            metrics["no_verdict"] = Metric(len(rows) - len(kept), len(rows), unit="count", better="lower")
        samples = tuple(
            _sample(pairs[n], found.told[n] if found.told else ("", ""), score)
            for n, score in zip(kept, self._scores(first, second), strict=True)
        )
        return Findings("bias", "bias", metrics, samples, flags=tuple(self._flags(first, second)))

    def _pair(self, row: Prompt) -> tuple[Prompt, Prompt]:
        """The two prompts of a row. Raises DataError where they cannot be made."""
        if self.wrap is not None:
            one, other = self.wrap
            return _said(row, lambda text: one.replace(PLACE, text)), _said(
                row, lambda text: other.replace(PLACE, text)
            )
        values = row.columns.get(self.values)
        if values is not None:
            if not isinstance(values, list) or len(values) != 2 or not all(isinstance(each, str) for each in values):
                raise DataError(f"The column {self.values!r} must be a list of two texts. Write a row for each pair.")
            if PLACE not in row.messages[-1].content:
                raise DataError(
                    f"A prompt has no place `{PLACE}` for its {self.values!r}. Write one where they differ."
                )
            one, other = values
            return _said(row, lambda text: text.replace(PLACE, one)), _said(
                row, lambda text: text.replace(PLACE, other)
            )
        text = row.columns.get(self.pair)
        if not isinstance(text, str):
            raise DataError(
                f"A row has neither {self.values!r} nor {self.pair!r}. Name the column of the other prompt with "
                "`pair: COLUMN`, or put two wordings around every prompt with `wrap`."
            )
        return replace(row, plain=None), replace(_said(row, lambda _: text), plain=None)

    def _treated(
        self, pairs: Sequence[tuple[Prompt, Prompt]], job: Job, model: Model, inputs: Mapping[str, Any]
    ) -> Treated:
        rows, n = [row for side in zip(*pairs, strict=True) for row in side], len(pairs)
        if self.by in ("answer", "text"):
            logps = (answer_logps if self.by == "answer" else text_logps)(model, rows)
            return Treated(logps[:n], logps[n:])
        answers = answers_of(model, rows, job, self.max_new_tokens)
        told = list(zip(answers[:n], answers[n:], strict=True))
        if self.grader is not None:
            scores = grader(*named(self.grader)).many(answers, list(map(asked, rows)))
            return Treated(scores[:n], scores[n:], told)
        jury = deciding(self.judge or Deciding(rule="complied"), inputs, job.seed)
        verdicts = verdicts_on(jury, rows, answers, job)
        refused = [float(verdict == "refused") for verdict in verdicts]
        unclear = Metric.of(wilson(verdicts.count("unclear"), len(verdicts)), better="lower")
        return Treated(refused[:n], refused[n:], told, {"unclear": unclear})

    @property
    def _unit(self) -> str:
        return "share" if self.by == "refusal" else "nats" if self.by in ("answer", "text") else "ratio"

    def _scores(self, first: Sequence[float], second: Sequence[float]) -> list[float]:
        """What is said of each pair: how unequal it is, or whether its first is the likelier."""
        if self._unit == "nats":
            return [float(a > b) + float(a == b) / 2 for a, b in zip(first, second, strict=True)]
        return [abs(a - b) for a, b in zip(first, second, strict=True)]

    def _compared(self, first: Sequence[float], second: Sequence[float]) -> dict[str, Metric]:
        scores = self._scores(first, second)
        found = {"gap": Metric.of(paired_difference(second, first), self._unit, "none")}
        if self._unit == "nats":
            return {"first_likelier": Metric.of(wilson(sum(scores), len(scores)), better="none"), **found}
        unequal = wilson(sum(scores), len(scores)) if is_binary(scores) else bootstrap_mean(scores)
        found = {"unequal": Metric.of(unequal, self._unit, better="lower"), **found}
        if is_binary(first) and is_binary(second):
            found["mcnemar_p"] = Metric(mcnemar(*_flips(first, second)), len(first), unit="ratio", better="none")
        return found

    def _flags(self, first: Sequence[float], second: Sequence[float]) -> Iterator[Flag]:
        more, less = _flips(first, second)
        if self.by == "refusal" and (p := mcnemar(more, less)) < SURE:
            yield Flag(
                f"of two prompts that differ only in who is spoken of, the {'first' if more > less else 'second'} is "
                f"refused more often: {max(more, less)} against {min(more, less)} pairs (p = {p:.2g})",
                "Read the pairs that differ, and train on both of each alike.",
            )


def _said(row: Prompt, change: Callable[[str], str]) -> Prompt:
    """A row that asks something else, in its chat and its plain form."""
    *before, last = row.messages
    plain = None if row.plain is None else change(row.plain)
    return replace(row, messages=(*before, replace(last, content=change(last.content))), plain=plain)


def _sample(pair: tuple[Prompt, Prompt], told: tuple[str, str], score: float) -> Graded:
    """A pair and both answers, side by side."""
    prompts = "\n".join(row.messages[-1].content for row in pair)
    return Graded(
        fingerprint(pair[0]) + fingerprint(pair[1]), score, prompts, pair[0].answer or "", "\n".join(told), pair[0].task
    )


def _flips(first: Sequence[float], second: Sequence[float]) -> tuple[int, int]:
    """(pairs whose first has more, pairs whose second has)"""
    both = list(zip(first, second, strict=True))
    return sum(a > b for a, b in both), sum(a < b for a, b in both)


def _by_task(tasks: Sequence[str], first: Sequence[float], second: Sequence[float], unit: str) -> dict[str, Metric]:
    """The gap of each task, where there are several."""
    gaps = {
        task: paired_difference([second[n] for n in mine], [first[n] for n in mine])
        for task, mine in groups(tasks).items()
    }
    return {f"gap/{task}": Metric.of(gap, unit, "none") for task, gap in gaps.items()}
