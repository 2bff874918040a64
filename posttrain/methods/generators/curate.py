"""Curate: attempts of a red team become rows to learn from, each beside a harmless twin.

Kept are the attempts that got through, the worst first, without those that mean the same, and at most so many of each attack
and of each request. What they should have been answered is the row's own `answer`, one text, or the revised answers of an
earlier stage (`answers`): a safe completion teaches more than one refusal for all. To each belongs a twin: the same attack
around a harmless request with its helpful answer, so that what is learnt is the request and not the attack (Roettger et al.
2023, arXiv 2308.01263, on refusing too much). `recovery` adds answers that begin as the attacked model's did and turn (Qi et
al. 2024, arXiv 2406.05946). Attempts that no judge is sure of go to `review.jsonl` in the artifact, for a human.

Row: `shape: sft` messages; `pairs` prompt, chosen, rejected; `unpaired` prompt, completion, label. All say their `source`, `attack`
and `goal_id`, and the licence that the request came with.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from posttrain.data.duplicates import unseen
from posttrain.data.files import REVIEW
from posttrain.data.read import read
from posttrain.engine.curating import Attempt, attempt, capped, distinct, recovery, told, twin, worst_first
from posttrain.engine.files import write_rows
from posttrain.engine.job import Job
from posttrain.engine.method import Generator, Made
from posttrain.models.load import load_policy
from posttrain.models.meaning import repeats, vectors
from posttrain.schema.artifacts import FORMS, Dataset, Model
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Answered, Message, Messages, Prompt, Row, Text, fingerprint
from posttrain.schema.settings import DatasetRef

LICENCES = ("licence", "license")
Shape = Literal["sft", "pairs", "unpaired"]
Twin = tuple[Messages, str]
"""A harmless request as an attack puts it, and its answer."""


class Curate(Generator):
    """Make rows to learn from of what a red team found."""

    reads: ClassVar[type[Row]] = Answered
    accepts: ClassVar[frozenset[str]] = frozenset(FORMS)

    data: DatasetRef
    """The attempts: rows of a `red_team` stage."""
    shape: Shape = "sft"
    """What the rows are: conversations for `sft`, `pairs` for `dpo` and its kin, or `unpaired` ones for `kto`."""
    keep: Literal["complied", "all"] = "complied"
    """Learn from the attempts that got through, or also from those that did not, to keep them so."""
    refusal: str | None = None
    """What should have been answered to all of them; the `answer` of each row if not given."""
    answers: DatasetRef = ()
    """Conversations whose answers are the right ones to what they ask, such as those of `critique_revise`."""
    alike: Literal["exact", "near", "meaning"] = "near"
    """Which attempts count as one: the same letter by letter, nearly so, or those that the model reads as nearly the same."""
    meaning: float = Field(0.95, gt=0, le=1)
    """From which cosine on two attempts mean the same, with `alike: meaning`."""
    per_attack: int | None = Field(None, ge=1)
    """Most attempts of one attack; all if not given."""
    per_goal: int | None = Field(None, ge=1)
    """Most attempts on one request; all if not given."""
    twins: DatasetRef = ()
    """Harmless questions with their answers, which are put in the same ways; none if not given."""
    recovery: float = Field(0.0, ge=0, le=1)
    """Which share of the attempts also teaches to turn back after a bad beginning."""
    recovery_words: int = Field(5, ge=1)
    """How many words such a beginning has at most."""

    def run(self, job: Job, **inputs: Any) -> Made:
        attempts = [attempt(row) for each in inputs["data"] for row in read(each, Answered).rows]
        unclear = [each for each in attempts if each.verdict == "unclear"]
        kept, left = self._kept(attempts, inputs["model"])
        job.note(told(len(kept), len(attempts), left, len(unclear)))
        if not kept:
            raise DataError(
                f"None of {len(attempts)} attempts is left to learn from. If the model held, there is nothing to mend: leave "
                "this stage out, or learn from all of them with `keep: all`."
            )
        draw = random.Random(job.seed)
        targets = self._targets(kept, inputs)
        twins = _twinned(kept, inputs.get("twins") or (), draw)
        rows = [*self._attacked(kept, targets, draw), *self._harmless(kept, targets, twins)]
        write_rows(job.folder / "rows.jsonl", rows)
        write_rows(job.folder / REVIEW, map(_review, unclear))
        facts = {"rows": len(rows), "attempts": len(attempts), "unclear": len(unclear), "left_out": dict(left)}
        return Made({**facts, "kept": dict(Counter(each.family for each in kept)), "without_twin": twins.count(None)})

    def _kept(self, attempts: Sequence[Attempt], model: Model) -> tuple[list[Attempt], Counter[str]]:
        left: Counter[str] = Counter()
        wanted = ("complied",) if self.keep == "complied" else ("complied", "refused")
        found = worst_first(each for each in attempts if each.verdict in wanted)
        found = distinct(found, lambda texts: self._alike(texts, model), left)
        return capped(found, self.per_attack, self.per_goal, left), left

    def _alike(self, texts: Sequence[str], model: Model) -> list[bool]:
        """Whether each text repeats an earlier one."""
        if self.alike == "meaning" and texts:
            return repeats(vectors(load_policy(model), texts), self.meaning)
        rows = [Text(text) for text in texts]
        new = {id(row) for row in unseen(iter(rows), self.alike, Counter())}
        return [id(row) not in new for row in rows]

    def _targets(self, kept: Sequence[Attempt], inputs: dict[str, Any]) -> list[str]:
        """What each of them should have been answered."""
        answered = [row for each in inputs.get("answers") or () for row in read(each, Answered).rows]
        known = {fingerprint(row): row.said.content for row in answered}
        found = [self._target(each, known) for each in kept]
        lacking = sum(target is None for target in found)
        if lacking:
            raise DataError(
                f"{lacking} attempts have nothing that they should have been answered. Give `refusal: TEXT`, requests with an "
                "`answer`, or `answers: STAGE`."
            )
        return [target for target in found if target is not None]

    def _target(self, each: Attempt, known: dict[str, str]) -> str | None:
        for asked in (each.asked, (Message("user", each.goal),)):
            if (answer := known.get(fingerprint(Prompt(asked)))) is not None:
                return answer
        return self.refusal if self.refusal is not None else each.target

    def _attacked(
        self, kept: Sequence[Attempt], targets: Sequence[str], draw: random.Random
    ) -> Iterator[dict[str, Any]]:
        """A row for each attempt, and its turning back where one is drawn."""
        for each, target in zip(kept, targets, strict=True):
            yield from self._rows(each, each.asked, Message("assistant", target), each.said)
            if self.shape == "sft" and each.verdict == "complied" and draw.random() < self.recovery:
                yield from self._rows(each, each.asked, recovery(each, target, draw, self.recovery_words), each.said)

    def _harmless(
        self, kept: Sequence[Attempt], targets: Sequence[str], twins: Sequence[Twin | None]
    ) -> Iterator[dict[str, Any]]:
        """A row for each twin; to refuse it is what should not be said."""
        for each, target, twinned in zip(kept, targets, twins or [None] * len(kept), strict=True):
            if twinned is not None:
                asked, answer = twinned
                yield from self._rows(each, asked, Message("assistant", answer), target, twin=True)

    def _rows(
        self, each: Attempt, asked: Messages, right: Message, wrong: str, *, twin: bool = False
    ) -> Iterator[dict[str, Any]]:
        """A right answer, and where rows tell one the wrong one."""
        told = {
            "task": "twin" if twin else "attack",
            "attack": each.family,
            "goal_id": each.goal_id,
            "source": "red_team",
            **{name: each.columns[name] for name in LICENCES if name in each.columns},
        }
        prompt, good, bad = [m.as_dict() for m in asked], [_spoken(right)], [_spoken(Message("assistant", wrong))]
        if self.shape == "sft":
            yield {"messages": [*prompt, *good], **told}
        elif self.shape == "pairs":
            yield {"prompt": prompt, "chosen": good, "rejected": bad, **told}
        else:
            yield {"prompt": prompt, "completion": good, "label": True, **told}
            yield {"prompt": prompt, "completion": bad, "label": False, **told}


def _twinned(kept: Sequence[Attempt], datasets: Sequence[Dataset], draw: random.Random) -> list[Twin | None]:
    """The same attack around a harmless request for each of them, with its answer; None where none can be made, and an empty
    list where there are no harmless requests. Each of these is used once before any is used again."""
    harmless = [row for each in datasets for row in read(each, Prompt).rows if row.answer]
    order: list[Prompt] = []
    found: list[Twin | None] = []
    for each in kept if harmless else ():
        order = order or draw.sample(harmless, len(harmless))
        row = order.pop()
        asked = twin(each, row)
        found.append((asked, row.answer or "") if asked is not None else None)
    return found


def _spoken(message: Message) -> dict[str, Any]:
    return {**message.as_dict(), **({"given": message.given} if message.given else {})}


def _review(each: Attempt) -> dict[str, Any]:
    """What a human is to judge: filled in, it is an attempt like the others."""
    asked = [message.as_dict() for message in each.asked]
    said = {"role": "assistant", "content": each.said}
    return {**each.columns, "messages": [*asked, said], "answer": each.target, "verdict": "unclear"}
