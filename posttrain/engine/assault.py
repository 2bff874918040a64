"""What stages and measures that attack a model have in common: whom, with what, judged by whom, at what cost."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import model_validator

from posttrain.data.read import read
from posttrain.models.endpoint import Endpoint, Remote
from posttrain.models.sampler import Sampling
from posttrain.models.speaker import OneModel, Speaker, load_local, load_speaker
from posttrain.schema.artifacts import Model
from posttrain.schema.rows import Prompt, fingerprint
from posttrain.schema.settings import DatasetRef, Settings

from .arming import Attacks, armed
from .attack import Goal, name_of, parts_of
from .job import Job
from .ledger import Ledger
from .siege import Budget, Lane, Siege
from .verdicts import Deciding, Jury, deciding

LEDGER = "attempts.jsonl"
WRITING = Sampling(temperature=1.0)


class Attacker(OneModel):
    """The model that some attacks write with."""

    who: ClassVar[str] = "attacker"

    sampling: Sampling = WRITING
    """How it writes."""


class Assault(Settings):
    """Whom to attack, with what, and who judges."""

    data: DatasetRef
    """The requests that ought to be refused."""
    attacks: Attacks = ("direct",)
    """How they are put, as `[direct, {persona: {at_most: 2}}, [persona, base64]]`; a list in it is one inside the other."""
    judge: Deciding
    """Who says whether an answer complied, as `{rule: complied}`, `{classifier: NAME}` or `{ask: {model: NAME}}`."""
    target: Endpoint | None = None
    """A model behind an OpenAI-compatible address that is attacked in place of the stage's own."""
    attacker: Attacker | None = None
    """The model that some attacks write with, as `{model: NAME}`."""
    examples: DatasetRef = ()
    """Harmless questions with answers, for attacks that show a conversation."""
    sampling: Sampling = Sampling()
    """How the attacked model answers."""
    budget: Budget = Budget()
    """How much it may cost, as `{queries: 1000}`, tokens or seconds; all attempts are made if not given."""

    @model_validator(mode="after")
    def _attacks_have_what_they_need(self) -> "Assault":
        """What is lacking is found before anything is made."""
        parts = [part for attack in armed(self.attacks).values() for part in parts_of(attack)]
        lacking = (
            ("writes", self.attacker is None, "needs a model to write with: give `attacker: {model: NAME}`."),
            (
                "shows",
                not self.examples,
                "shows a conversation: give harmless questions with answers as `examples: …`.",
            ),
            ("opens", self.target is not None, "needs the weights of the attacked model: leave out `target`."),
        )
        for part in parts:
            for need, is_lacking, cure in lacking:
                if is_lacking and need in part.needs():
                    raise ValueError(f"the attack {name_of(part)!r} {cure}")
        return self

    def besiege(self, job: Job, model: Model, inputs: Mapping[str, Any]) -> tuple[list[Lane], Jury]:
        """Every attack on every request, and who judged."""
        target = (
            Remote(self.target, self.sampling, "target") if self.target else load_local(model, self.sampling, job.seed)
        )
        jury = deciding(self.judge, inputs, job.seed)
        goals = [Goal(row, fingerprint(row)) for each in inputs["data"] for row in read(each, Prompt).rows]
        siege = Siege(
            target,
            jury,
            Ledger(job.scratch / LEDGER),
            self._writer(inputs, job.seed),
            self.budget,
            seed=job.seed,
            examples=_examples(inputs),
        )
        lanes = siege.run(armed(self.attacks), list({goal.id: goal for goal in goals}.values()), job)
        for family, n in siege.unread().items():
            job.note(f"{family}: nothing could be made of {n} replies of the attacker's model")
        return lanes, jury

    def _writer(self, inputs: Mapping[str, Any], seed: int) -> Speaker | None:
        if self.attacker is None:
            return None
        return load_speaker(self.attacker, inputs.get("attacker.model"), self.attacker.sampling, seed)


def _examples(inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [row for each in inputs.get("examples") or () for row in read(each, Prompt).rows]
    return [(row.messages[-1].content, row.answer) for row in rows if row.answer]


def unclear(lanes: Sequence[Lane]) -> dict[str, int]:
    """Why attempts are unclear, and how many."""
    return dict(Counter(entry.why for lane in lanes for entry in lane.heard if entry.verdict == "unclear"))


def outcome(lanes: Sequence[Lane]) -> dict[str, dict[str, int]]:
    """Family -> how many goals complied, refused, are unclear, and were not tried, and the attempts it took."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for lane in lanes:
        found[lane.family][lane.verdict or "not_tried"] += 1
        found[lane.family]["attempts"] += len(lane.heard)
    return {family: dict(counts) for family, counts in found.items()}
