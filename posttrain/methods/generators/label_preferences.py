"""Label which of two answers is better by AI feedback, with how sure it is (Bai et al. 2022, arXiv 2212.08073: RLAIF).

    p = mean over principles and both orders of  p(A) / (p(A) + p(B))        by the feedback model's log-probabilities
    {prompt, chosen, rejected, probability}                                  probability = max(p, 1 - p)

The letters' probabilities are the label; no text is parsed. `reason` lets the model write reasons first and clamps what
it then says. Pairs that the model is not sure of are left out and counted. The others teach `dpo` and `reward`, which
take p for what it is: label smoothing of each row by itself.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field, model_validator

from posttrain.data.constitution import ConstitutionRef, drawn
from posttrain.data.read import read
from posttrain.engine.files import write_rows
from posttrain.engine.job import Job
from posttrain.engine.method import Generator, Made
from posttrain.engine.preferring import Compared, Preferring, Reading, probability
from posttrain.functional.seeds import seed_of
from posttrain.models.feedback import FeedbackModel, Loaded, load_feedback
from posttrain.models.load import load_policy
from posttrain.models.sampler import Sampling
from posttrain.schema.errors import DataError, UsageError
from posttrain.schema.rows import Answered, Prompt, Row, fingerprint
from posttrain.schema.settings import DatasetRef

CURES = {
    "no other answer": "Draw several answers to each prompt: `sample: {n: 2}`.",
    "the same answers": "Draw more of them at a higher `temperature`.",
    "not sure": "Lower `undecided`, ask with more `principles`, or take a larger feedback model.",
    "no reply": "Look at the feedback model: its context may be too short, or it says neither letter.",
}
"""Why there is no preference, and what to do where there is none at all."""
CLAMP = (0.4, 0.6)


class LabelPreferences(Generator):
    """Compare answers by principles, and keep which is better as pairs with a probability."""

    reads: ClassVar[type[Row]] = Answered

    data: DatasetRef
    """Conversations that end with an answer, such as those of a `sample` stage with `n: 2`."""
    constitution: ConstitutionRef = Field(default="default", validate_default=True)
    """The principles: `default`, `lab`, a YAML file, or written out."""
    language: str = "en"
    """The language that the feedback model is asked in."""
    tags: tuple[str, ...] = ()
    """Go by the principles with one of these tags; by all of them if none is given."""
    principles: int = Field(4, ge=1)
    """How many principles each pair is asked about, drawn anew for every pair; at most all there are."""
    pairs: int = Field(1, ge=1)
    """How many pairs of the answers to a prompt are compared, drawn among all of them."""
    feedback: FeedbackModel | None = None
    """Who compares, as `{model: NAME}` or `{endpoint: {url: …, model: NAME}}`; the stage's own model if not given."""
    undecided: float = Field(0.05, ge=0, lt=0.5)
    """How near to 0.5 a probability is, so that its pair is left out."""
    reason: Sampling | None = None
    """Let it write reasons before the letter, drawn like this, as `{temperature: 1, max_new_tokens: 200}`."""
    clamp: tuple[float, float] = CLAMP
    """The least and the greatest probability that counts after reasons, which make a model surer than it should be."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "LabelPreferences":
        low, high = self.clamp
        if not 0 <= low < high <= 1:
            raise ValueError(f"clamp: {list(self.clamp)} is no range of probabilities: write it as `[0.4, 0.6]`")
        if self.reason is None and self.clamp != CLAMP:
            raise ValueError("`clamp` holds after reasons only: give `reason: {temperature: 1}`, or leave `clamp` out")
        if self.reason is not None and max(0.5 - low, high - 0.5) <= self.undecided:
            raise ValueError("`clamp` lies within what is `undecided`, so no pair would stay: lower `undecided`")
        try:
            self.constitution.choose(self.language, self.tags)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self

    def run(self, job: Job, **inputs: Any) -> Made:
        found = [read(dataset, Answered) for dataset in inputs["data"]]
        for each in found:
            job.note(each.decision)
        pairs, prompts, why = self._pairs([row for each in found for row in each.rows], job.seed)
        readings = self._readings(pairs, job, inputs)
        clamp = self.clamp if self.reason is not None else None
        rows = []
        for pair, told in zip(pairs, readings, strict=True):
            p = probability(told, clamp)
            reason = "no reply" if p is None else "not sure" if abs(p - 0.5) < self.undecided or p == 0.5 else ""
            why.update([reason] if reason else [])
            if p is not None and not reason:
                rows.append(_row(pair, p, told))
        told_of = _told(len(pairs), len(rows), why)
        if not rows:
            raise DataError(f"{told_of} {CURES[why.most_common(1)[0][0]]}")
        job.note(told_of)
        write_rows(job.folder / "rows.jsonl", rows)
        facts = {"probability": fmean(row["probability"] for row in rows), "chosen_longer": _longer(rows)}
        made = {"rows": len(rows), "prompts": prompts, "pairs": len(pairs), "left_out": dict(why)}
        return Made({**made, **facts, **_facts(readings), "principles": _by_principle(readings, clamp)})

    def _pairs(self, rows: Sequence[Answered], seed: int) -> tuple[list[Compared], int, Counter[str]]:
        """(pairs of different answers to a prompt, the number of prompts, why some have none)."""
        answers: dict[str, list[Answered]] = {}
        for row in rows:
            answers.setdefault(repr(replace(row.prompt, columns={})), []).append(row)
        why: Counter[str] = Counter()
        pairs: list[Compared] = []
        principles = self.constitution.choose(self.language, self.tags)
        n_asked = min(self.principles, len(principles))
        for of in answers.values():
            said = list(dict.fromkeys(row.said.content for row in of))
            if len(said) < 2:
                why["no other answer" if len(of) < 2 else "the same answers"] += 1
                continue
            number, prompt = int(fingerprint(of[0]), 16), of[0].prompt
            both = list(combinations(said, 2))
            taken = random.Random(seed_of(seed, number)).sample(both, min(self.pairs, len(both)))
            for n, (one, other) in enumerate(taken):
                draws = seed_of(seed, number, n)
                pairs.append(Compared(prompt, one, other, drawn(principles, n_asked, draws), draws))
        return pairs, len(answers), why

    def _readings(self, pairs: Sequence[Compared], job: Job, inputs: Mapping[str, Any]) -> list[list[Reading]]:
        if not pairs:
            return []
        model = inputs["model"]
        feedback = (
            load_feedback(self.feedback, inputs.get("feedback.model"))
            if self.feedback
            else Loaded.of(model, load_policy(model))
        )
        of = 2 * sum(len(pair.principles) for pair in pairs) * (1 if self.reason is None else 2)
        asking = Preferring(feedback, self.language, self.reason, job.seed, lambda done: job.answered(done, of))
        return asking.readings(pairs)


def _row(pair: Compared, p: float, readings: Sequence[Reading]) -> dict[str, Any]:
    prompt: Prompt = pair.prompt
    chosen, rejected = (pair.first, pair.second) if p > 0.5 else (pair.second, pair.first)
    said = {"chosen": chosen, "rejected": rejected}
    way = [{"principle": each.principle, "first_as_a": each.as_a, "first_as_b": each.as_b} for each in readings]
    return {
        "prompt": [message.as_dict() for message in prompt.messages],
        **{name: [{"role": "assistant", "content": text}] for name, text in said.items()},
        "probability": max(p, 1 - p),
        "task": prompt.task,
        "first_is": "chosen" if p > 0.5 else "rejected",
        "readings": way,
        **({"tools": list(prompt.tools)} if prompt.tools else {}),
    }


def _told(n: int, kept: int, why: Counter[str]) -> str:
    reasons = "".join(f"; {count} left out: {reason}" for reason, count in why.most_common())
    return f"{kept or 'None'} of {n} pairs {'have' if kept != 1 else 'has'} a preference{reasons}."


def _longer(rows: Sequence[dict[str, Any]]) -> float:
    """How often the longer answer is the better one."""
    return fmean(len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]) for row in rows)


def _facts(readings: Sequence[Sequence[Reading]]) -> dict[str, float]:
    """How often another answer was preferred when they changed places, and how likely A was, which should be a half."""
    both = [r for each in readings for r in each if r.as_a is not None and r.as_b is not None]
    if not both:
        return {}
    letter_a = fmean((r.as_a or 0.0) + 1 - (r.as_b or 0.0) for r in both) / 2
    return {"orders_disagree": fmean(r.orders_disagree for r in both), "letter_a": letter_a}


def _by_principle(
    readings: Sequence[Sequence[Reading]], clamp: tuple[float, float] | None
) -> dict[str, dict[str, float]]:
    """How often each principle was asked, how often it preferred what all together preferred, and how sure it was."""
    found: dict[str, list[tuple[bool, float]]] = {}
    for each in readings:
        p = probability(each, clamp)
        for reading in each:
            own = reading.probability(clamp)
            if own is not None and p is not None:
                found.setdefault(reading.principle, []).append(((own - 0.5) * (p - 0.5) > 0, abs(own - 0.5)))
    return {
        name: {"used": len(told), "agreed": fmean(a for a, _ in told), "certainty": fmean(c for _, c in told)}
        for name, told in sorted(found.items(), key=lambda item: -len(item[1]))
    }
