"""Preference accuracy: how often a model finds the chosen answer likelier than the rejected one.

By whole answers, log p(chosen) > log p(rejected), longer answers are at a disadvantage; `per: token` compares mean
log-probabilities of tokens instead. A tie counts as wrong.
"""

from typing import ClassVar, Literal

from pydantic import Field

from posttrain.data.batch import Batch
from posttrain.data.read import read
from posttrain.data.trees import plant
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.functional.statistics import bootstrap_mean, wilson
from posttrain.models.load import load_format, load_policy
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.findings import Findings, Graded, Metric
from posttrain.schema.rows import Pair, Row
from posttrain.schema.settings import DatasetRef


class PreferenceAccuracy(Measure):
    """Share of pairs whose chosen answer the model finds likelier."""

    reads: ClassVar[type[Row]] = Pair

    data: DatasetRef
    """The pairs."""
    per: Literal["answer", "token"] = "answer"
    """Compare whole answers, or mean log-probabilities of their tokens."""
    max_length: int = Field(1024, ge=2)
    """Longest prompt with its answer, in tokens; a longer one loses its end."""

    def measure(self, job: Job, model: Model, **data: tuple[Dataset, ...]) -> Findings:
        policy = load_policy(model)
        rows = [row for dataset in data["data"] for row in read(dataset, Pair).rows]
        trees = plant(rows, load_format(model, policy.tokenizer), min(self.max_length, policy.context))
        logps = policy.score(Batch(trees))
        if self.per == "token":
            logps = logps / logps.new_tensor([tree.branches[b].n_trained() for b in range(2) for tree in trees])
        margins = [
            chosen - rejected for chosen, rejected in zip(*(half.tolist() for half in logps.chunk(2)), strict=True)
        ]
        right, margin = wilson(sum(m > 0 for m in margins), len(margins)), bootstrap_mean(margins)
        metrics = {
            "accuracy": Metric.of(right),
            "margin": Metric.of(margin, "nats"),
        }
        samples = tuple(Graded(str(i), float(m > 0)) for i, m in enumerate(margins))
        return Findings("preference_accuracy", "preference_accuracy", metrics, samples)
