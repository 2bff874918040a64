"""Fidelity: how much of another model is left in a model that was made from it to be smaller.

    kl        mean over tokens of  sum_v p_v (log p_v - log q_v)       p the other model, q this one
    agreement share of tokens of which both hold the same one for the likeliest

Perplexity cannot tell: a model may become worse at some texts and better at others and keep it. Tokens of one row
are not independent, so the intervals treat rows as such.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posttrain.data.batch import Batch
from posttrain.data.planting import shape_of
from posttrain.data.read import read
from posttrain.data.trees import plant
from posttrain.engine.calibrating import SHAPES
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.functional.layout import Tree, split_by_tokens
from posttrain.functional.ratios import ratio_of_sums
from posttrain.models.load import load_format, load_policy
from posttrain.models.policy import Policy
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import ModelError
from posttrain.schema.findings import Findings, Metric
from posttrain.schema.rows import Row
from posttrain.schema.settings import DatasetRef, ModelRef


class Fidelity(Measure):
    """How far a model's next tokens are from those of another one, on texts that neither wrote."""

    data: DatasetRef
    """Conversations, of which the answers count, or texts."""
    against: ModelRef
    """The model that it should be like: the name of a stage such as `sft`, or a folder."""
    max_length: int = Field(512, ge=2)
    """Tokens of a row that are read at once."""

    reads: ClassVar[type[Row] | None] = None

    def shapes(self) -> tuple[type[Row], ...]:
        return SHAPES

    def measure(self, job: Job, model: Model, **inputs: Any) -> Findings:
        policy, other = load_policy(model), inputs["against"]
        reference = policy if other.digest == model.digest else load_policy(other)
        if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
            raise ModelError(
                f"{other.path} has another tokenizer than the model that is measured, so they cannot be compared token by "
                "token. Hold it `against` the model that it was made from."
            )
        trees = self._trees(inputs["data"], model, policy)
        nats, same, tokens = _compared(policy, reference, trees, job)
        return Findings(
            "fidelity",
            "fidelity",
            {
                "kl": Metric.of(ratio_of_sums(nats, tokens), "nats", "lower"),
                "agreement": Metric.of(ratio_of_sums(same, tokens), "share", "higher"),
            },
            notes={"against": self.against},
        )

    def _trees(self, data: Sequence[Dataset], model: Model, policy: Policy) -> tuple[Tree, ...]:
        rows = [row for dataset in data for row in read(dataset, shape_of(dataset, SHAPES)).rows]
        return plant(rows, load_format(model, policy.tokenizer), min(self.max_length, policy.context))


@torch.no_grad()
def _compared(
    policy: Policy, reference: Policy, trees: Sequence[Tree], job: Job
) -> tuple[list[float], list[float], list[float]]:
    """For each answer: the sum of its tokens' divergence, how many tokens both would have said, and of how many."""
    nats, same, tokens = [], [], []
    done = 0
    for rows in split_by_tokens(trees, policy.micro_tokens):
        batch = Batch(tuple(trees[row] for row in rows))
        ours, theirs = policy.expects(batch.trees), reference.expects(batch.trees)
        nats += _per_answer(batch, ours.divergence(theirs))
        same += _per_answer(batch, (ours.likeliest() == theirs.likeliest()).float())
        tokens += batch.n_trained.tolist()
        done += len(rows)
        job.answered(done, len(trees))
    return nats, same, tokens


def _per_answer(batch: Batch, each: Tensor) -> list[float]:
    sums: list[float] = batch.per_answer(each.double().cpu()).tolist()
    return sums
