"""Perplexity: how surprised a model is by text.

    exp( -1/N  sum over all N tokens of  log p(token | what stands before it in its document) )

A model that was made smaller may keep it while its answers change: `fidelity`, `flips` and benchmarks see that.
Documents longer than `max_length` are read in pieces. The interval treats documents, not tokens, as independent.
"""

from math import exp
from typing import ClassVar

from pydantic import Field

from posttrain.data.batch import Batch
from posttrain.data.read import read
from posttrain.data.trees import plant
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.functional.ratios import ratio_of_sums
from posttrain.models.load import load_format, load_policy
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.findings import Findings, Metric
from posttrain.schema.rows import Row, Text
from posttrain.schema.settings import DatasetRef


class Perplexity(Measure):
    """How surprised a model is by text; lower is better."""

    reads: ClassVar[type[Row]] = Text
    blind: ClassVar[bool] = True

    data: DatasetRef
    """The text."""
    max_length: int = Field(512, ge=2)
    """Tokens of a document that are read at once."""

    def measure(self, job: Job, model: Model, **data: tuple[Dataset, ...]) -> Findings:
        policy = load_policy(model)
        rows = [row for dataset in data["data"] for row in read(dataset, Text).rows]
        trees = plant(rows, load_format(model, policy.tokenizer), min(self.max_length, policy.context))
        nats = (-policy.score(Batch(trees))).tolist()
        tokens = [tree.branches[0].n_trained() for tree in trees]
        found = ratio_of_sums(nats, tokens)
        perplexity = Metric(
            exp(found.value), sum(tokens), exp(found.low), exp(found.high), unit="ratio", better="lower"
        )
        per_token = Metric(found.value, sum(tokens), found.low, found.high, unit="nats", better="lower")
        return Findings("perplexity", "perplexity", {"perplexity": perplexity, "nats_per_token": per_token})
