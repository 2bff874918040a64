"""A model's answers to rows, greedily, for measures that judge them. Its weights are not kept: a judge may need the room."""

from collections.abc import Sequence
from typing import NamedTuple

from posttrain.data.chat import ChatFormat
from posttrain.models.load import load_format, load_policy
from posttrain.models.policy import Policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.schema.artifacts import Model
from posttrain.schema.rows import Prompt
from posttrain.schema.verdicts import Verdict

from .job import Job
from .verdicts import Jury

AT_ONCE = 16  # answers that a jury is asked about before it is told how far it is


class Said(NamedTuple):
    """An answer, and whether it ended by itself."""

    text: str
    ends: bool


def said_of(model: Model, rows: Sequence[Prompt], job: Job, max_new_tokens: int) -> list[Said]:
    """The model's answer to every row, in order, asked as it likes to be."""
    policy = load_policy(model)
    return said_by(policy, load_format(model, policy.tokenizer), rows, job, max_new_tokens)


def said_by(policy: Policy, form: ChatFormat, rows: Sequence[Prompt], job: Job, max_new_tokens: int) -> list[Said]:
    """The same of weights that are in memory already."""
    sampler = TransformersSampler(policy, form.stop_ids, watch=lambda done: job.answered(done, len(rows)))
    drawn = sampler.sample([form.ask(row) for row in rows], Sampling(max_new_tokens=max_new_tokens), job.seed)
    return [Said(form.read_answer(ids), not form.stop_ids or (bool(ids) and ids[-1] in form.stop_ids)) for ids in drawn]


def answers_of(model: Model, rows: Sequence[Prompt], job: Job, max_new_tokens: int) -> list[str]:
    """The texts alone."""
    return [said.text for said in said_of(model, rows, job, max_new_tokens)]


def verdicts_on(jury: Jury, rows: Sequence[Prompt], answers: Sequence[str], job: Job) -> list[Verdict]:
    """What became of every request, in order; a few at a time, as a judge may take long."""
    found: list[Verdict] = []
    for start in range(0, len(rows), AT_ONCE):
        found += jury.verdicts(rows[start : start + AT_ONCE], answers[start : start + AT_ONCE])
        job.answered(len(found), len(rows))
    return found
