"""Let a model criticise and revise its answers by a constitution (Bai et al. 2022, arXiv 2212.08073: SL-CAI).

    y_0 = model(x)     c_k = critic(x, y_{k-1}, critique request of p_k)     y_k = critic(..., c_k, revision request of p_k)

p_1, p_2, ... are principles, drawn anew for every prompt by their weights, none of them twice. A row is learnt by `sft` as
the prompt with its revision, or by `dpo` as the revision beside the first answer; all that was said on the way stands in
it. Which revision: the earliest of the best by a judge's verdict or a reward, or without either the last. Beside the rows
some that are only helpful should be learnt, or a model learns to decline: `sft: {data: [critique_revise, chat.jsonl]}`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from posttrain.data.columns import NAMES
from posttrain.data.constitution import ConstitutionRef, drawn
from posttrain.data.read import read
from posttrain.engine.files import write_rows
from posttrain.engine.job import Job
from posttrain.engine.method import Generator, Made
from posttrain.engine.revising import (
    COMPLIED,
    WORTH,
    Filters,
    Round,
    Trail,
    boilerplate,
    effects,
    shown_turns,
    talk,
    why_unfit,
)
from posttrain.engine.rewarding import Rewards, rewarding
from posttrain.engine.verdicts import Deciding, deciding
from posttrain.functional.seeds import seed_of
from posttrain.models.endpoint import Reply
from posttrain.models.feedback import Feedback, FeedbackModel, Loaded, load_feedback
from posttrain.models.load import load_format, load_policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import DataError, UsageError
from posttrain.schema.rows import Messages, Prompt, Row, fingerprint
from posttrain.schema.settings import DatasetRef

TOGETHER = 64  # answers that are judged at once
Values = Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]
CURES = {
    "copy": "The critic changes nothing: take another critic, show it `examples`, or keep copies: `filters: {likeness: null}`.",
    "boilerplate": "Take a higher `temperature`, or raise `filters: {boilerplate: …}`.",
    "unfinished": "Raise `sampling: {max_new_tokens: …}`.",
    "role leak": "Show the critic `examples`, or take another critic.",
    "length": "Widen `filters: {shortest: …, longest: …}`.",
    COMPLIED: "Take more `rounds`, or another critic.",
    "worse than the first answer": "Take another critic, or look at what the reward likes.",
    "no verdict": "Mend what judges.",
}
"""What to do where a reason leaves nothing."""


class CritiqueRevise(Generator):
    """Answer prompts, and criticise and revise the answers by principles."""

    reads: ClassVar[type[Row]] = Prompt

    data: DatasetRef
    """The prompts, mostly such as should be declined or answered with care."""
    constitution: ConstitutionRef = Field(default="default", validate_default=True)
    """The principles: `default`, `lab`, a YAML file, or written out."""
    language: str = "en"
    """The language that the critic is asked in."""
    tags: tuple[str, ...] = ()
    """Go by the principles with one of these tags; by all of them if none is given."""
    rounds: int = Field(2, ge=1, le=4)
    """How often an answer is criticised and revised."""
    examples: int = Field(0, ge=0)
    """How many of the constitution's examples a critic is shown before its own turn."""
    critic: FeedbackModel | None = None
    """Who criticises and revises, as `{model: NAME}` or `{endpoint: {url: …, model: NAME}}`; the model itself if not given."""
    sampling: Sampling = Sampling(temperature=1.0)
    """How answers, critiques and revisions are drawn."""
    judge: Deciding | None = None
    """Who says whether an answer complied or refused, as `{rule: GRADER}`; for prompts that are all to be declined."""
    reward: Rewards | None = None
    """What says instead how good an answer is, as `{model: NAME}` or `{functions: [GRADER]}`."""
    filters: Filters = Filters()
    """Which revisions are fit to be learnt."""
    keep: Literal["revisions", "pairs"] = "revisions"
    """Conversations that end with the revision, or pairs in which it is chosen and the first answer rejected."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "CritiqueRevise":
        if self.judge is not None and self.reward is not None:
            raise ValueError("either a judge or a reward takes a revision: leave `judge` or `reward` out")
        try:
            self.constitution.choose(self.language, self.tags)
            self.constitution.shown(self.language, self.examples)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self

    def run(self, job: Job, **inputs: Any) -> Made:
        read_rows = [read(dataset, Prompt) for dataset in inputs["data"]]
        for each in read_rows:
            job.note(each.decision)
        rows = [row for each in read_rows for row in each.rows]
        trails = self._revised(rows, job, inputs)
        if values := self._values(job, inputs):
            _judge(trails, values, self.judge is not None)
        _leave_out(trails, self.filters.boilerplate)
        judged = values is not None
        kept = [(trail, n) for trail in trails if (n := trail.taken(judged)[0]) >= 0]
        why = Counter(reason for trail in trails if (reason := trail.taken(judged)[1]))
        told = _told(len(trails), len(kept), why)
        if not kept:
            raise DataError(f"{told} {CURES.get(why.most_common(1)[0][0], 'Take another critic.')}")
        job.note(told)
        found = effects(trails, judged)
        _tell(job, found, judged)
        write_rows(job.folder / "rows.jsonl", (self._row(trail, n) for trail, n in kept))
        rounds = Counter(str(n + 1) for _, n in kept)
        facts = {"taken_in_round": dict(sorted(rounds.items())), "principles": dict(found)}
        return Made({"rows": len(kept), "prompts": len(rows), "left_out": dict(why), **facts})

    def _revised(self, rows: Sequence[Prompt], job: Job, inputs: dict[str, Any]) -> list[Trail]:
        """Every prompt with its first answer and all rounds."""
        model: Model = inputs["model"]
        policy = load_policy(model)
        form, turns = load_format(model, policy.tokenizer), _Turns(job, len(rows), 1 + 2 * self.rounds)
        numbers = [int(fingerprint(row), 16) for row in rows]
        sampler = TransformersSampler(policy, form.stop_ids, watch=turns.watch())
        first = sampler.sample([form.ask(row) for row in rows], self.sampling, seed_of(job.seed, 0), numbers=numbers)
        principles = self.constitution.choose(self.language, self.tags)
        trails = [
            Trail(row, drawn(principles, self.rounds, seed_of(job.seed, number)), said, text=said)
            for row, number, said in zip(rows, numbers, map(form.read_answer, first), strict=True)
        ]
        critic = load_feedback(self.critic, inputs.get("critic.model")) if self.critic else Loaded.of(model, policy)
        shown = shown_turns(self.constitution, self.constitution.shown(self.language, self.examples))
        for n in range(self.rounds):
            self._round(n, trails, critic, shown, turns, numbers)
        return trails

    def _round(
        self,
        n: int,
        trails: Sequence[Trail],
        critic: Feedback,
        shown: Messages,
        turns: "_Turns",
        numbers: Sequence[int],
    ) -> None:
        """A critique and a revision of every answer."""

        def said(turn: int, talks: Sequence[Messages]) -> list[Reply]:
            return critic.say(talks, self.sampling, seed_of(turns.job.seed, turn), numbers, turns.watch())

        critiques = said(2 * n + 1, [talk(trail, n, self.language, shown) for trail in trails])
        talks = [talk(t, n, self.language, shown, c.text or "") for t, c in zip(trails, critiques, strict=True)]
        for trail, critique, revision in zip(trails, critiques, said(2 * n + 2, talks), strict=True):
            principle, text = trail.principles[n], revision.text or ""
            silent = critique.text is None or revision.text is None
            why = "no reply" if silent else why_unfit(text, revision.finished, trail, principle, self.filters)
            trail.rounds.append(Round(principle.id, critique.text or "", text, why))
            trail.text = text if trail.rounds[-1].goes_on else trail.text

    def _values(self, job: Job, inputs: dict[str, Any]) -> Values | None:
        """What says how good an answer is; None where nothing does."""
        if self.judge is not None:
            jury = deciding(self.judge, inputs, job.seed)
            return lambda rows, answers: [WORTH[verdict] for verdict in jury.verdicts(rows, answers)]
        if self.reward is not None:
            reward = rewarding(self.reward, inputs.get("reward.model"), judge=inputs.get("reward.judge.model"))
            return lambda rows, answers: reward.total(reward.scores(rows, answers))
        return None

    def _row(self, trail: Trail, n: int) -> dict[str, Any]:
        """A row with everything that was said on the way to its answer."""
        prompt, chosen = trail.prompt, trail.rounds[n]
        others = {name: value for name, value in prompt.columns.items() if name.strip().casefold() not in NAMES}
        asked = [message.as_dict() for message in prompt.messages]
        revision, first = ([{"role": "assistant", "content": text}] for text in (chosen.revision, trail.first))
        learnt = {"messages": asked + revision}
        if self.keep == "pairs":
            learnt = {"prompt": asked, "chosen": revision, "rejected": first}
        way = [{"principle": r.principle, "critique": r.critique, "revision": r.revision} for r in trail.rounds]
        worth = {"values": [trail.value, *(each.value for each in trail.rounds)]} if trail.value is not None else {}
        told = {"tools": list(prompt.tools), "chat_template_kwargs": dict(prompt.template_options)}
        told = {name: value for name, value in told.items() if value}
        said = {"principle": chosen.principle, "round": n + 1, "first_answer": trail.first, "rounds": way}
        return {**others, **learnt, "task": prompt.task, **said, **worth, **told}


class _Turns:
    """Tells how many turns of all have been said."""

    def __init__(self, job: Job, n: int, turns: int) -> None:
        self.job, self.n, self.of, self.over = job, n, n * turns, 0

    def watch(self) -> Callable[[int], None]:
        """What is called with the number of turns said in the next go."""
        before, self.over = self.over, self.over + self.n
        return lambda done: self.job.answered(before + done, self.of)


def _judge(trails: Sequence[Trail], values: Values, decides: bool) -> None:
    """Says what every answer is worth; of one that complied, that it is not to be learnt."""
    places = [(trail, n) for trail in trails for n in (-1, *(n for n, each in enumerate(trail.rounds) if each.goes_on))]
    for start in range(0, len(places), TOGETHER):
        some = places[start : start + TOGETHER]
        texts = [trail.rounds[n].revision if n >= 0 else trail.first for trail, n in some]
        for (trail, n), value in zip(some, values([trail.prompt for trail, _ in some], texts), strict=True):
            if n < 0:
                trail.value = value
                continue
            complied = decides and value == WORTH["complied"]
            why = trail.rounds[n].why or (COMPLIED if complied else "")
            trail.rounds[n] = replace(trail.rounds[n], value=value, why=why)


def _leave_out(trails: Sequence[Trail], share: float) -> None:
    """Marks boilerplate, round by round: the revisions of one round are compared with each other."""
    for n in range(max((len(trail.rounds) for trail in trails), default=0)):
        fit = [trail for trail in trails if not trail.rounds[n].why]
        for trail, bad in zip(fit, boilerplate([t.rounds[n].revision for t in fit], share), strict=True):
            if bad:
                trail.rounds[n] = replace(trail.rounds[n], why="boilerplate")


def _told(n: int, kept: int, why: Counter[str]) -> str:
    reasons = "".join(f"; {count} left out: {reason}" for reason, count in why.most_common())
    return f"{kept or 'None'} of {n} answers {'have' if kept != 1 else 'has'} a revision to learn{reasons}."


def _tell(job: Job, found: Any, judged: bool) -> None:
    what = "verdict or reward" if judged else "answer"
    each = ", ".join(f"{name} {told['changed']}/{told['used']}" for name, told in _first(found.items(), 20))
    job.note(f"principles, as often as the {what} changed / as often as they were used: {each}")


def _first(items: Any, n: int) -> Iterator[Any]:
    return (item for _, item in zip(range(n), items, strict=False))
