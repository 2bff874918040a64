"""Flips: which answers turned, and how, between a model and the one that it was made from to be smaller.

    right_to_wrong      wrong_to_right         of the rows that a grader can score
    refusals_appeared   refusals_vanished      by the built-in rule (`functional/refusals.py`)
    json_broken         json_mended            the answer is one JSON object or list, or is it no more
    endings_lost        endings_found          the answer ends by itself within `max_new_tokens`, or does not

Each is a share of rows with Wilson's interval. Means may stay while answers turn either way (Dutta et al. 2024, arXiv 2407.09141), so
both ways are counted, and gated apart: `gate: {flips.refusals_vanished: {at_most: 0}}`. Answers are drawn greedily, so that what
turned is the model and not a draw. `flipped` is any of these; `changed` are answers that read otherwise, which most do.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import Field

from posttrain.data.read import read
from posttrain.engine.answering import Said, said_of
from posttrain.engine.grading import GraderRef, asked, grader, named
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.functional.flips import BETTER, KINDS, Traits, flips, traits
from posttrain.functional.statistics import groups, wilson
from posttrain.schema.artifacts import Model
from posttrain.schema.findings import Findings, Graded, Metric
from posttrain.schema.rows import Prompt, Row, fingerprint
from posttrain.schema.settings import DatasetRef, ModelRef


class Flips(Measure):
    """Which answers turned right or wrong, into refusals or out of them, in or out of form."""

    reads: ClassVar[type[Row]] = Prompt

    data: DatasetRef
    """Prompts of all kinds that the model will meet, harmful ones among them; those with an answer are graded."""
    against: ModelRef
    """The model that it should answer like: the name of a stage such as `sft`, or a folder."""
    grader: GraderRef | None = None
    """How every row is scored, as in `benchmark`: right is what gets all that there is. Without it, rows that have an answer, by
    `exact`."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens; what needs more does not end."""

    def measure(self, job: Job, model: Model, **inputs: Any) -> Findings:
        rows = [row for dataset in inputs["data"] for row in read(dataset, Prompt).rows]
        other = inputs["against"]
        theirs = said_of(other, rows, job, self.max_new_tokens)
        ours = theirs if other.digest == model.digest else said_of(model, rows, job, self.max_new_tokens)
        before, after = self._traits(rows, theirs), self._traits(rows, ours)
        found = [flips(a, b) for a, b in zip(before, after, strict=True)]
        changed = sum(a.text != b.text for a, b in zip(theirs, ours, strict=True))
        n_graded = sum(a.right is not None and b.right is not None for a, b in zip(before, after, strict=True))
        metrics = {
            "flipped": _share(sum(map(bool, found)), len(rows)),
            "changed": _share(changed, len(rows)),
            **dict(_by_kind(found, n_graded)),
            **_by_task(rows, found),
        }
        samples = tuple(
            Graded(
                fingerprint(row),
                float(bool(kinds)),
                row.messages[-1].content,
                row.answer or "",
                said.text,
                ", ".join(kinds),
            )
            for row, said, kinds in zip(rows, ours, found, strict=True)
        )
        counts = {kind: sum(kind in kinds for kinds in found) for kind in BETTER}
        return Findings(
            "flips", "flips", metrics, samples, {"against": self.against, "rows": len(rows), "counts": counts}
        )

    def _traits(self, rows: Sequence[Prompt], said: Sequence[Said]) -> list[Traits]:
        """What each answer is; only rows that can be are graded."""
        graded = [n for n, row in enumerate(rows) if row.answer is not None or self.grader is not None]
        scores: dict[int, float | None] = {}
        if graded:
            scoring = grader(*named(self.grader or "exact"))
            scores = dict(
                zip(graded, scoring.many([said[n].text for n in graded], [asked(rows[n]) for n in graded]), strict=True)
            )
        return [traits(each.text, each.ends, scores.get(n)) for n, each in enumerate(said)]


def _by_kind(found: Sequence[Sequence[str]], n_graded: int) -> Iterator[tuple[str, Metric]]:
    """The share of rows that turned in each way; right and wrong where something was graded."""
    for trait, kinds in KINDS.items():
        n = n_graded if trait == "right" else len(found)
        for kind in kinds if n else ():
            yield kind, _share(sum(kind in each for each in found), n, BETTER[kind])


def _by_task(rows: Sequence[Prompt], found: Sequence[Sequence[str]]) -> dict[str, Metric]:
    """Where there are several tasks, how much of each turned."""
    tasks = groups([row.task for row in rows])
    return {f"flipped/{task}": _share(sum(bool(found[n]) for n in at), len(at)) for task, at in tasks.items()}


def _share(n: int, of: int, better: str = "none") -> Metric:
    return Metric.of(wilson(n, of), better=better)
