"""A measure whose model says whatever it is asked."""

from typing import Any, ClassVar

from posttrain.data.read import read
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.schema.artifacts import Model
from posttrain.schema.findings import Findings, Graded, Metric
from posttrain.schema.rows import Prompt, fingerprint
from posttrain.schema.settings import DatasetRef


class Parrot(Measure):
    """Takes the questions for the model's answers."""

    reads: ClassVar[type[Prompt]] = Prompt
    data: DatasetRef
    """The questions."""

    def measure(self, job: Job, model: Model, **data: Any) -> Findings:
        rows = read(data["data"][0], Prompt).rows
        score = float(model.key == "")  # all right for a base, which has no key: a comparison then has rows to show
        samples = []
        for row in rows:
            said = row.messages[-1].content
            job.note(said)
            samples.append(Graded(fingerprint(row), score, said, row.answer or "", said, row.task))
        return Findings("parrot", "parrot", {"score": Metric(score, len(rows))}, tuple(samples))
