"""Drift: how far a model went from another, and what it won by it, on answers that it writes itself.

    kl      = mean over answers y ~ pi(. | x) of  sum_t log pi(y_t) - log rho(y_t)        nats an answer
    reward  = mean of what those answers earn

pi is the model, rho the one that it is held `against`; both are asked at the same `temperature`, or the mean would be no
KL divergence. A single answer's sum may be negative; only their mean is not, in expectation (the estimator k1 of
Schulman 2020). More reward for more KL is the trade that alignment makes (Gao et al. 2023, arXiv 2210.10760): a row's
reward is its score, so that any two models of a run are compared answer against answer.

Shapes: B answers, one to each prompt.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from posttrain.data.batch import Batch
from posttrain.data.chat import ChatFormat
from posttrain.data.dressing import added
from posttrain.data.read import read
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.engine.rewarding import Rewards, Scores, rewarding
from posttrain.functional.layout import Branch, Tree
from posttrain.functional.ratios import ratio_of_sums
from posttrain.functional.statistics import bootstrap_mean, wilson
from posttrain.models.load import load_format, load_policy
from posttrain.models.policy import Policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.models.vocabulary import make_room
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.findings import Findings, Graded, Metric
from posttrain.schema.rows import Prompt, Row, fingerprint
from posttrain.schema.settings import DatasetRef, ModelRef


class Drift(Measure):
    """How far a model went from another in what it writes, and what its answers earn."""

    reads: ClassVar[type[Row]] = Prompt

    data: DatasetRef
    """The prompts to answer."""
    against: ModelRef
    """The model that it is held against: the name of a stage such as `sft`, or a folder."""
    reward: Rewards | None = None
    """What answers earn, as `{model: NAME}` or `{functions: [exact]}`; only the drift is measured if not given."""
    temperature: float = Field(1.0, gt=0)
    """How far draws stray from the likeliest token; 1 is the model itself."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""

    def measure(self, job: Job, model: Model, **inputs: Any) -> Findings:
        policy, other = load_policy(model), inputs["against"]
        form = load_format(model, policy.tokenizer)
        rows = [row for dataset in inputs["data"] for row in read(dataset, Prompt).rows]
        batch = self._answered(rows, policy, form, job)
        reference = policy if other.digest == model.digest else _reader(other, policy)
        drift = self._logps(policy, batch) - self._logps(reference, batch)  # (B,)
        metrics, scores = _drifted(drift.tolist(), batch, form), drift.tolist()
        texts = [form.read_answer(branch.tokens) for branch in batch.branches]
        if self.reward is not None:
            judge = rewarding(
                self.reward,
                inputs.get("reward.model"),
                written_by=_written_by(policy, form),
                judge=inputs.get("reward.judge.model"),
            )
            parts = judge.scores(rows, texts, batch)
            scores = judge.total(parts)
            metrics |= _rewarded(scores, parts)
        samples = tuple(
            Graded(fingerprint(row), score, row.messages[-1].content, row.answer or "", text, row.task)
            for row, text, score in zip(rows, texts, scores, strict=True)
            if score is not None
        )
        return Findings("drift", "drift", metrics, samples, {"without_verdict": len(rows) - len(samples)})

    def _answered(self, rows: Sequence[Prompt], policy: Policy, form: ChatFormat, job: Job) -> Batch:
        """An answer to each prompt, drawn from the model as it likes to be asked."""
        prompts = [form.ask(row) for row in rows]
        sampler = TransformersSampler(policy, form.stop_ids, watch=lambda done: job.answered(done, len(rows)))
        sampling = Sampling(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
        answers = zip(prompts, sampler.sample(prompts, sampling, job.seed), strict=True)
        return Batch(tuple(Tree(tuple(asked), (Branch(tuple(ids), (True,) * len(ids)),)) for asked, ids in answers))

    @torch.no_grad()
    def _logps(self, policy: Policy, batch: Batch) -> torch.Tensor:
        """(B,): how likely a model finds each answer, in nats."""
        return policy.answer_logps(batch, self.temperature).double().cpu()


def _reader(model: Model, policy: Policy) -> Policy:
    """The other model, ready to read what the policy wrote: a token that is new to it is an average one, as it is to a
    model before it is trained. Raises ModelError where it knows other tokens by the same numbers."""
    reader = load_policy(model)
    known, written = reader.tokenizer.get_vocab(), policy.tokenizer.get_vocab()
    new = added(reader.tokenizer, policy.tokenizer)
    if any(known.get(token, id) != id for token, id in written.items()) or set(new) & set(known.values()):
        raise ModelError(
            f"{model.path} has another tokenizer than the model that is measured, so it cannot read its answers token by "
            "token. Hold it `against` a model that it was made from."
        )
    make_room(reader.model, new)
    return reader


def _written_by(policy: Policy, form: ChatFormat) -> Any:
    """The tokenizer whose tokens a reward model may be given as they are; none where a prompt program asks in another way
    than the reward model has learnt to read."""
    return policy.tokenizer if form.program.layout == "chat" and not form.program.k else None


def _drifted(drift: Sequence[float], batch: Batch, form: ChatFormat) -> dict[str, Metric]:
    lengths = [float(len(branch.tokens)) for branch in batch.branches]
    ended = sum(branch.tokens[-1:] != () and branch.tokens[-1] in form.stop_ids for branch in batch.branches)
    return {
        "kl": Metric.of(bootstrap_mean(drift), "nats", "none"),
        "kl_per_token": Metric.of(ratio_of_sums(drift, lengths), "nats", "none"),
        "tokens": Metric.of(bootstrap_mean(lengths), "count", "none"),
        "finished": Metric.of(wilson(ended, len(lengths))),
    }


def _rewarded(total: Sequence[float | None], parts: Scores) -> dict[str, Metric]:
    """What answers earn, and of each part where there are several. Raises DataError where nothing was judged."""
    named = {"reward": total, **({f"reward/{name}": each for name, each in parts.items()} if len(parts) > 1 else {})}
    known = {name: [score for score in each if score is not None] for name, each in named.items()}
    if not known["reward"]:
        raise DataError(
            f"No answer got a verdict from {', '.join(parts)}. Mend what scores them, or leave `reward` out."
        )
    return {name: Metric.of(bootstrap_mean(each), "ratio") for name, each in known.items()}
