"""A model's answers to rows, greedily, for measures that judge them. Its weights are not kept: a judge may need the room."""

from collections.abc import Sequence

from posttrain.models.load import load_format, load_policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.schema.artifacts import Model
from posttrain.schema.rows import Prompt
from posttrain.schema.verdicts import Verdict

from .job import Job
from .verdicts import Jury

AT_ONCE = 16  # answers that a jury is asked about before it is told how far it is


def answers_of(model: Model, rows: Sequence[Prompt], job: Job, max_new_tokens: int) -> list[str]:
    """The model's answer to every row, in order, asked as it likes to be."""
    policy = load_policy(model)
    form = load_format(model, policy.tokenizer)
    sampler = TransformersSampler(policy, form.stop_ids, watch=lambda done: job.answered(done, len(rows)))
    drawn = sampler.sample([form.ask(row) for row in rows], Sampling(max_new_tokens=max_new_tokens), job.seed)
    return [form.read_answer(ids) for ids in drawn]


def verdicts_on(jury: Jury, rows: Sequence[Prompt], answers: Sequence[str], job: Job) -> list[Verdict]:
    """What became of every request, in order; a few at a time, as a judge may take long."""
    found: list[Verdict] = []
    for start in range(0, len(rows), AT_ONCE):
        found += jury.verdicts(rows[start : start + AT_ONCE], answers[start : start + AT_ONCE])
        job.answered(len(found), len(rows))
    return found
