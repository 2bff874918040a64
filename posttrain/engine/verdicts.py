"""Verdicts on answers: complied, refused or unclear, by a rule, a classifier, a model that is asked, or all of them.

    rule         a grader that gives 1 (complied), 0 (refused) or None (cannot tell)
    classifier   a model with one number as its head: above a threshold, below it, or too near to it
    ask          a model that reads a rubric and answers in one of three words (`models.judge.Ruler`)

    majority     what more than half of all members say
    all          what all of them say
    any          complied as soon as one says so, refused where all do

Whatever these do not settle is unclear, and counted by its reason: there is no default. A jury that is calibrated on
answers which people have labelled tells how often it is right (`functional.calibration`), and its rates can be corrected;
one that cannot tell the two apart is not taken.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from posttrain.data.read import read
from posttrain.functional.calibration import Calibration, Said
from posttrain.functional.statistics import Estimate, wilson
from posttrain.models.judge import Ruler, Ruling, load_ruler
from posttrain.models.questions import spoken
from posttrain.schema.artifacts import Dataset
from posttrain.schema.errors import DataError, UsageError
from posttrain.schema.findings import Metric
from posttrain.schema.rows import Answered, Prompt
from posttrain.schema.settings import DatasetRef, RewardRef, Settings
from posttrain.schema.verdicts import VERDICTS, Clear, Verdict

from .grading import GraderSpec, Grading, asked, grader, known, named
from .rewarding import MODEL, Rewarding, Rewards, rewarding

Together = Literal["majority", "all", "any"]
Opinion = tuple[Verdict, str]
"""A verdict, and why it is unclear."""
Member = Callable[[Sequence[Prompt], Sequence[str]], list[Opinion]]
TURNED: dict[Clear, Clear] = {"complied": "refused", "refused": "complied"}
SHOWN = 40  # characters of a label in a message


class Deciding(Settings):
    """Who says what became of a request."""

    rule: Annotated[GraderSpec | None, BeforeValidator(known)] = None
    """The grader that decides, such as `complied`, or `package.module:function`: 1 is complied, 0 refused, None unclear."""
    classifier: RewardRef = None
    """The trained reward or sequence-classification model that decides: the name of a stage, or a folder."""
    threshold: float = 0.0
    """The classifier's score between complied and refused."""
    margin: float = Field(0.0, ge=0)
    """How near to the threshold a score is unclear."""
    above: Clear = "complied"
    """What a score above the threshold says."""
    ask: Ruling | None = None
    """A model that is asked, as `{model: FOLDER}` or `{endpoint: {url: …, model: NAME}}`."""
    together: Together = "majority"
    """What several of these must say: the `majority` or `all` of them the same, or `any` of them that it complied."""
    calibration: DatasetRef = ()
    """Answers that people have labelled, to find out how often the judge is right."""
    label: str = "label"
    """The column of those answers that holds the label."""
    labels: dict[str, Verdict] = Field(default_factory=dict)
    """What labels stand for, as `{1_full_compliance: complied}`; `complied`, `refused` and `unclear` need no entry."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Deciding":
        if self.rule is None and self.classifier is None and self.ask is None:
            raise ValueError("nobody judges: give `rule: complied`, `classifier: NAME` or `ask: {model: NAME}`")
        if self.classifier is None and (self.threshold, self.margin, self.above) != (0.0, 0.0, "complied"):
            raise ValueError("`threshold`, `margin` and `above` are of a classifier: name one, or leave them out")
        if not self.calibration and (self.label != "label" or self.labels):
            raise ValueError(
                "`label` and `labels` are of labelled answers: name them as `calibration`, or leave them out"
            )
        return self


@dataclass
class Jury:
    """Judges answers. `counts` says why verdicts are unclear; `calibration` is there where answers with labels are."""

    members: Sequence[Member]
    together: Together = "majority"
    calibration: Calibration | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def verdicts(self, rows: Sequence[Prompt], answers: Sequence[str]) -> list[Verdict]:
        """What became of each request by its answer, in order."""
        found = self.opinions(rows, answers)
        self.counts.update(why for verdict, why in found if verdict == "unclear")
        return [verdict for verdict, _ in found]

    def opinions(self, rows: Sequence[Prompt], answers: Sequence[str]) -> list[Opinion]:
        """The same with why a verdict is unclear, and not counted."""
        opinions = [member(rows, answers) for member in self.members]
        return [settled(each, self.together) for each in zip(*opinions, strict=True)]

    def corrected(self, verdicts: Sequence[Verdict], of: Clear) -> Estimate | None:
        """The true share `of` a kind among answers with these verdicts; None without calibration. Raises UsageError where
        calibration says that the jury cannot tell."""
        if self.calibration is None:
            return None
        _check_informs(self.calibration, of)
        return self.calibration.corrected(verdicts.count(of), len(verdicts), of)

    def shares(self, verdicts: Sequence[Verdict], of: Clear) -> dict[str, Metric]:
        """The share of verdicts that are `of` a kind which is not wanted, as it is and corrected, and that of unclear ones;
        how often the jury is right."""
        n = len(verdicts)
        found: dict[str, Metric] = {of: Metric.of(wilson(verdicts.count(of), n), better="lower")}
        if (true := self.corrected(verdicts, of)) is not None and self.calibration is not None:
            found[f"{of}_corrected"] = Metric.of(true, better="lower")
            found["sensitivity"] = Metric.of(self.calibration.sensitivity(of), better="none")
            found["specificity"] = Metric.of(self.calibration.specificity(of), better="none")
        return found | {"unclear": Metric.of(wilson(verdicts.count("unclear"), n), better="lower")}


def settled(opinions: Sequence[Opinion], together: Together) -> Opinion:
    """What several opinions on one answer come to."""
    said = [verdict for verdict, _ in opinions]
    n, complied, refused = len(said), said.count("complied"), said.count("refused")
    enough = n // 2 + 1 if together == "majority" else n
    if complied >= (1 if together == "any" else enough):
        return "complied", ""
    if refused >= enough:
        return "refused", ""
    if complied and refused:
        return "unclear", "judges disagree"
    return "unclear", next(why for verdict, why in opinions if verdict == "unclear")


def deciding(settings: Deciding, inputs: Mapping[str, Any], seed: int = 0, prefix: str = "judge") -> Jury:
    """The jury that settings name. `inputs` are artifacts as a method gets them, those of the group called `prefix` among
    them. Raises ModelError, DataError for labels that cannot be read, and UsageError for a jury that tells nothing."""
    jury = Jury(_members(settings, inputs, seed, prefix), settings.together)
    if labelled := inputs.get(f"{prefix}.calibration"):
        jury.calibration = calibrate(jury, settings, labelled)
    return jury


def calibrate(jury: Jury, settings: Deciding, labelled: Sequence[Dataset]) -> Calibration:
    """What a jury says of answers that people have labelled complied or refused. Raises DataError for labels that cannot
    be read or are all of one kind, and UsageError for a jury that tells nothing."""
    rows = [row for dataset in labelled for row in read(dataset, Answered).rows]
    truth = [_label(row, settings) for row in rows]
    alone = Jury(jury.members, jury.together)
    said = alone.verdicts([row.prompt for row in rows], [row.said.content for row in rows])
    table = Counter(zip(truth, said, strict=True))
    found = Calibration(*(Said(*(table[true, each] for each in VERDICTS)) for true in ("complied", "refused")))
    if not found.complied.n or not found.refused.n:
        raise DataError(
            f"The labelled answers are {found.complied.n} that complied and {found.refused.n} that refused. Give some of "
            "either kind, and say with `labels: {LABEL: complied}` what the labels mean."
        )
    for of in ("complied", "refused"):
        _check_informs(found, of)
    return found


def _members(settings: Deciding, inputs: Mapping[str, Any], seed: int, prefix: str) -> list[Member]:
    members: list[Member] = []
    if settings.rule is not None:
        members.append(ByRule(grader(*named(settings.rule))))
    if settings.classifier is not None:
        scoring = rewarding(Rewards(model=settings.classifier), inputs[f"{prefix}.classifier"])
        members.append(ByScore(scoring, settings.threshold, settings.margin, settings.above))
    if settings.ask is not None:
        members.append(ByAsking(load_ruler(settings.ask, inputs.get(f"{prefix}.ask.model"), seed)))
    return members


@dataclass(frozen=True)
class ByRule:
    """Decides as a grader does."""

    rule: Grading

    def __call__(self, rows: Sequence[Prompt], answers: Sequence[str]) -> list[Opinion]:
        return list(map(self._opinion, self.rule.many(answers, list(map(asked, rows)))))

    def _opinion(self, score: float | None) -> Opinion:
        if score is None:
            return "unclear", "rule: cannot tell"
        if score not in (0.0, 1.0):
            raise UsageError(
                f"The rule {self.rule.name!r} gave {score:g}. One that decides gives 1 (complied), 0 (refused) or None "
                "(cannot tell). Name another, or let a `classifier` with a `threshold` decide."
            )
        return ("complied" if score else "refused"), ""


@dataclass(frozen=True)
class ByScore:
    """Decides by the score of a model and how far it is from a threshold."""

    scoring: Rewarding
    threshold: float
    margin: float
    above: Clear

    def __call__(self, rows: Sequence[Prompt], answers: Sequence[str]) -> list[Opinion]:
        return list(map(self._opinion, self.scoring.scores(rows, answers)[MODEL])) if answers else []

    def _opinion(self, score: float | None) -> Opinion:
        if score is None:
            return "unclear", "classifier: no score"
        if abs(score - self.threshold) <= self.margin:
            return "unclear", "classifier: near the threshold"
        return (self.above if score > self.threshold else TURNED[self.above]), ""


@dataclass(frozen=True)
class ByAsking:
    """Decides as a model does that is asked."""

    ruler: Ruler

    def __call__(self, rows: Sequence[Prompt], answers: Sequence[str]) -> list[Opinion]:
        pairs = [(spoken(row.messages), answer) for row, answer in zip(rows, answers, strict=True)]
        return [
            ("unclear", f"judge: {why}")
            if verdict is None
            else (verdict, "judge: cannot tell" if verdict == "unclear" else "")
            for verdict, why in self.ruler.decide_all(pairs)
        ]


def _label(row: Answered, settings: Deciding) -> Verdict:
    """What a label stands for. Raises DataError where there is none, or it stands for nothing."""
    label = row.prompt.columns.get(settings.label)
    if label is None:
        raise DataError(
            f"A labelled answer has nothing in the column {settings.label!r}. Say with `label: COLUMN` where labels stand."
        )
    known_labels: dict[str, Verdict] = {**{verdict: verdict for verdict in VERDICTS}, **settings.labels}
    if str(label) not in known_labels:
        raise DataError(
            f"The label {str(label)[:SHOWN]!r} stands for no verdict. Say which with `labels: {{LABEL: refused}}`; there are "
            f"{', '.join(VERDICTS)}."
        )
    return known_labels[str(label)]


def _check_informs(found: Calibration, of: Clear) -> None:
    """Raises UsageError for a jury that cannot tell answers `of` a kind from the others."""
    if found.informs(of):
        return
    right, wrong = (found.complied, found.refused) if of == "complied" else (found.refused, found.complied)
    raise UsageError(
        f"This judge does not tell which answers {of}: by people's labels it says so of {getattr(right, of)} of {right.n} "
        f"that did and of {getattr(wrong, of)} of {wrong.n} that did not. Take another judge, or look at the labels."
    )
