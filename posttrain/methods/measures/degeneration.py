"""Degeneration: how far a model's answers have come to say nothing, to go round in circles, or never to end.

    repetition   mean share of an answer's n-grams that came before in it (Welleck et al. 2020, arXiv 1908.04319)
    looping      share of answers of which more than half is such repetition
    distinct     share of the n-grams of all answers that are different ones (Li et al. 2016, arXiv 1510.03055)
    entropy      mean over answer tokens of  - sum_v p_v log p_v, in nats
    empty        share of answers without a word
    unfinished   share of answers that did not end by themselves

Answers are drawn greedily, so that the same model gives the same ones. n-grams are of tokens, the one that ends an answer
aside. Entropy that falls while `distinct` falls is a model on its way to one answer for everything; a gate on safety alone
does not see that. Shapes: B answers, N tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from posttrain.data.batch import Batch
from posttrain.data.read import read
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.functional.diversity import distinct, repetition
from posttrain.functional.entropy import token_entropies
from posttrain.functional.layout import Branch, Tree
from posttrain.functional.ratios import ratio_of_sums
from posttrain.functional.statistics import Estimate, bootstrap_mean, wilson
from posttrain.models.load import load_format, load_policy
from posttrain.models.policy import Policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.schema.artifacts import Model
from posttrain.schema.findings import Findings, Flag, Graded, Metric
from posttrain.schema.rows import Prompt, Row, fingerprint
from posttrain.schema.settings import DatasetRef

LOOP = 0.5  # share of repetition from which an answer goes round in circles
MANY = 0.1  # share of answers from which a reader is told


class Degeneration(Measure):
    """How far answers are empty, repeat themselves, or never end."""

    reads: ClassVar[type[Row]] = Prompt

    data: DatasetRef
    """The prompts to answer."""
    n: int = Field(4, ge=1)
    """Tokens of a piece that counts as repeated."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens; what needs more is unfinished."""

    def measure(self, job: Job, model: Model, **inputs: Any) -> Findings:
        policy = load_policy(model)
        form = load_format(model, policy.tokenizer)
        rows = [row for dataset in inputs["data"] for row in read(dataset, Prompt).rows]
        prompts = [form.ask(row) for row in rows]
        sampler = TransformersSampler(policy, form.stop_ids, watch=lambda done: job.answered(done, len(rows)))
        drawn = sampler.sample(prompts, Sampling(max_new_tokens=self.max_new_tokens), job.seed)
        texts = [form.read_answer(ids) for ids in drawn]
        ended = [ids[-1] in form.stop_ids for ids in drawn]
        said = [ids[:-1] if end else ids for ids, end in zip(drawn, ended, strict=True)]
        repeated = [repetition(ids, self.n) for ids in said]
        metrics = {
            "repetition": Metric.of(bootstrap_mean(repeated), better="lower"),
            "looping": Metric.of(wilson(sum(share > LOOP for share in repeated), len(rows)), better="lower"),
            "empty": Metric.of(wilson(sum(not text for text in texts), len(rows)), better="lower"),
            "unfinished": Metric.of(wilson(len(rows) - sum(ended), len(rows)), better="lower"),
            **_distinct(said, self.n),
            "entropy": Metric.of(_entropy(policy, prompts, drawn), "nats", "none"),
        }
        samples = tuple(
            Graded(fingerprint(row), share, row.messages[-1].content, row.answer or "", text, row.task)
            for row, share, text in zip(rows, repeated, texts, strict=True)
        )
        return Findings("degeneration", "degeneration", metrics, samples, flags=tuple(_flags(metrics)))


@torch.no_grad()
def _entropy(policy: Policy, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Estimate:
    """Nats a token, with answers as what is independent."""
    trees = (
        Tree(tuple(asked), (Branch(tuple(ids), (True,) * len(ids)),))
        for asked, ids in zip(prompts, answers, strict=True)
    )
    batch = Batch(tuple(trees))

    def entropies(some: Sequence[Tree]) -> torch.Tensor:
        with policy.precision():
            expected = policy.expects(some)
            return token_entropies(expected.before)[: len(expected.answers)]

    found_N = policy.in_pieces(batch, entropies, batch.n_trained).cpu()
    return ratio_of_sums(batch.per_answer(found_N).tolist(), batch.n_trained.tolist())


def _distinct(answers: Sequence[Sequence[int]], n: int) -> dict[str, Metric]:
    """Nothing where no answer has a piece of that length."""
    found = distinct(answers, n)
    return {"distinct": Metric.of(found, better="higher")} if found is not None else {}


def _flags(metrics: Mapping[str, Metric]) -> Iterator[Flag]:
    for name, told in (("looping", "go round in circles"), ("empty", "are empty"), ("unfinished", "do not end")):
        if metrics[name].value > MANY:
            yield Flag(
                f"{metrics[name].value:.0%} of the answers {told}",
                "Read some; train with a lower `learning_rate` or fewer steps, or raise `max_new_tokens` if they are long.",
            )
