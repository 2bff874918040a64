"""Label answers as preferences: a reward model or functions score them, and the better beats the worse.

    score = weight_1 score_1 + weight_2 score_2 + ... - missing_end [cut off]        of every answer to a prompt
    best_and_worst    {prompt, chosen, rejected, margin}      margin = score of the best - score of the worst
    all               {prompt, answers, scores}               the best first

Answers to one prompt belong together wherever they stand, so those of several models can be judged in one go. A prompt
is left out where nothing can be preferred: its answers are one and the same, or earn the same. Sampled from the policy
that learns and labelled anew every round, this is iterated preference learning (Dong et al. 2024, arXiv 2405.07863).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, ClassVar, Literal

from pydantic import Field

from posttrain.data.read import read
from posttrain.engine.files import write_rows
from posttrain.engine.job import Job
from posttrain.engine.method import Generator, Made
from posttrain.engine.rewarding import Rewarding, Rewards, rewarding
from posttrain.schema.artifacts import FORMS
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Answered, Message, Prompt, Row
from posttrain.schema.settings import DatasetRef

TOGETHER = 64  # answers that are scored at once
CURES = {
    "no other answer": "Draw several answers to each prompt: `sample: {n: 4}`.",
    "no verdict on two answers": "Mend what scores them; `posttrain help` names the graders.",
    "the same answers": "Draw more of them at a higher `temperature`.",
    "the same scores": "Take a reward that tells them apart, or draw more of them.",
    "a smaller margin": "Lower `min_margin`.",
}
"""Why a prompt gives no preference, and what to do where none does."""


@dataclass(frozen=True)
class Judged:
    """An answer and what it earned."""

    said: Message
    score: float


@dataclass
class Answers:
    """All answers to one prompt: how many there are, and those that got a verdict."""

    prompt: Prompt
    n: int = 0
    judged: list[Judged] = field(default_factory=list)

    def ranked(self) -> list[Judged]:
        """The best first, the same answer once."""
        distinct = {answer.said: answer for answer in reversed(self.judged)}
        return sorted((a for a in self.judged if distinct[a.said] is a), key=lambda answer: -answer.score)

    def why_not(self, min_margin: float) -> str:
        """Why nothing is preferred, as in CURES; empty where something is."""
        if self.n < 2:
            return "no other answer"
        if len(self.judged) < 2:
            return "no verdict on two answers"
        if len(ranked := self.ranked()) < 2:
            return "the same answers"
        margin = ranked[0].score - ranked[-1].score
        return "the same scores" if not margin else "a smaller margin" if margin < min_margin else ""


class Label(Generator):
    """Score answers, and keep which of them are better as pairs or rankings."""

    reads: ClassVar[type[Row]] = Answered
    accepts: ClassVar[frozenset[str]] = frozenset(FORMS)  # whose answers they are; it is not loaded

    data: DatasetRef
    """Conversations that end with an answer, such as those of a `sample` stage with `n: 4`."""
    reward: Rewards
    """What answers earn, as `{model: NAME}` or `{functions: [exact]}`."""
    keep: Literal["best_and_worst", "all"] = "best_and_worst"
    """A pair of the best and the worst answer to each prompt, or all its answers ranked."""
    min_margin: float = Field(0.0, ge=0)
    """Least by which the best answer to a prompt must beat the worst."""
    missing_end: float = Field(0.0, ge=0)
    """What an answer pays that did not end by itself, where rows say so in a column `finished`."""

    def run(self, job: Job, **inputs: Any) -> Made:
        found = [read(dataset, Answered) for dataset in inputs["data"]]
        for each in found:
            job.note(each.decision)
        rows = [row for each in found for row in each.rows]
        scores = self._scores(
            rows, rewarding(self.reward, inputs.get("reward.model"), judge=inputs.get("reward.judge.model")), job
        )
        asked = _by_prompt(rows, scores)
        reasons = [answers.why_not(self.min_margin) for answers in asked]
        kept = [answers for answers, reason in zip(asked, reasons, strict=True) if not reason]
        why = Counter(filter(None, reasons))
        told = _told(len(asked), len(kept), why, sum(score is None for score in scores))
        if not kept:
            raise DataError(f"{told} {CURES[why.most_common(1)[0][0]]}")
        job.note(told)
        write_rows(job.folder / "rows.jsonl", map(self._row, kept))
        return Made({"rows": len(kept), "prompts": len(asked), "left_out": dict(why), **_facts(kept, scores)})

    def _scores(self, rows: Sequence[Answered], judge: Rewarding, job: Job) -> list[float | None]:
        """What every answer earned, in order."""
        scores: list[float | None] = []
        for start in range(0, len(rows), TOGETHER):
            part = rows[start : start + TOGETHER]
            given = judge.scores([row.prompt for row in part], [row.said.content for row in part])
            scores += [
                None if score is None else score - self.missing_end * (row.prompt.columns.get("finished") is False)
                for row, score in zip(part, judge.total(given), strict=True)
            ]
            job.answered(len(scores), len(rows))
        return scores

    def _row(self, answers: Answers) -> dict[str, Any]:
        prompt, ranked = answers.prompt, answers.ranked()
        asked = {"prompt": [message.as_dict() for message in prompt.messages], "task": prompt.task}
        tools = {"tools": list(prompt.tools)} if prompt.tools else {}
        said, scores = [[answer.said.as_dict()] for answer in ranked], [answer.score for answer in ranked]
        if self.keep == "all":
            return {**asked, "answers": said, "scores": scores, **tools}
        return {**asked, "chosen": said[0], "rejected": said[-1], "margin": scores[0] - scores[-1], **tools}


def _by_prompt(rows: Sequence[Answered], scores: Sequence[float | None]) -> list[Answers]:
    """Prompts in the order in which they first stand, each with its answers."""
    found: dict[str, Answers] = {}
    for row, score in zip(rows, scores, strict=True):
        asked = repr(replace(row.prompt, columns={}))  # an id makes no other prompt of it
        answers = found.setdefault(asked, Answers(row.prompt))
        answers.n += 1
        if score is not None:
            answers.judged.append(Judged(row.said, score))
    return list(found.values())


def _told(n: int, kept: int, why: Counter[str], unjudged: int) -> str:
    reasons = [f"{count} have {reason}" for reason, count in why.most_common()]
    left_out = f"; {', '.join(reasons)}" if reasons else ""
    verdicts = f"; {unjudged} answers got no verdict" if unjudged else ""
    return f"{kept or 'None'} of {n} prompts give{'s' * (not kept)} a preference{left_out}{verdicts}."


def _facts(kept: Sequence[Answers], scores: Sequence[float | None]) -> dict[str, Any]:
    """What the artifact records: answers, mean score and margin, and how often the longer answer is the better."""
    ends = [(ranked[0], ranked[-1]) for ranked in (answers.ranked() for answers in kept)]
    return {
        "answers": len(scores),
        "without_verdict": sum(score is None for score in scores),
        "score": fmean(score for score in scores if score is not None),
        "margin": fmean(best.score - worst.score for best, worst in ends),
        "chosen_longer": fmean(len(best.said.content) > len(worst.said.content) for best, worst in ends),
    }
