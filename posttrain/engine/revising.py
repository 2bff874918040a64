"""Answers that are criticised and revised, round by round: the talk with a critic, which revisions are fit to be learnt,
and which of them is taken (Bai et al. 2022, arXiv 2212.08073).

    user       what was asked
    assistant  the answer so far
    user       the principle's request for a critique
    assistant  its critique                                    <- the critic
    user       the principle's request for a revision
    assistant  its revision                                    <- the critic; the answer of the next round

Examples are shown as earlier turns of the same talk, so each model reads them in its own template.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field, model_validator

from posttrain.data.constitution import Constitution, Principle, Shown
from posttrain.data.duplicates import shingles_of
from posttrain.schema.rows import Message, Messages, Prompt
from posttrain.schema.settings import Settings
from posttrain.schema.verdicts import Verdict

N_GRAM = 5  # words
WORTH: dict[Verdict, float] = {"complied": 0.0, "unclear": 1.0, "refused": 2.0}
"""How good a verdict on an answer to a request that should be declined is, next to the others."""
COMPLIED = "judged to comply"
NO_ANSWER = ("no reply", "empty", "unfinished", "role leak")
"""Why a revision is no answer at all."""
LEAK = re.compile(
    r"(?:^|\n)[\s>*#\"'`(\[]*(?:critique(?: request)?|revision(?: request)?|revised (?:answer|response)|human|assistant|user"
    r"|system|批评|批判|修改|修订|改写后|用户|助手|人类)[\s*\"'`)\]]*[:：]"
    r"|\b(?:Critique|Revision)(?: Request)?\s*:|<[|｜][^\s<>]{1,60}[|｜]>",
    re.IGNORECASE,
)
"""A part of the talk, or the name of who speaks, in what should be an answer."""
WORD = re.compile(r"[^\W\d_㐀-鿿]+|\d+|[㐀-鿿]")


class Filters(Settings):
    """Which revisions are fit to be learnt."""

    likeness: float | None = Field(0.95, gt=0, le=1)
    """How like the first answer a revision must be to be left out as a copy, from 0 to 1; none keeps copies."""
    shortest: float = Field(0.1, ge=0)
    """The least length of a revision, as a multiple of the first answer's."""
    longest: float = Field(10.0, gt=0)
    """The greatest length of a revision, as a multiple of the first answer's."""
    boilerplate: float = Field(0.1, gt=0, le=1)
    """The largest share of all revisions that may be one text, or made for the most part of phrases that many share."""

    @model_validator(mode="after")
    def _has_room(self) -> "Filters":
        if self.shortest >= self.longest:
            raise ValueError("`shortest` leaves no room below `longest`: lower it")
        return self


@dataclass(frozen=True)
class Round:
    """One round: by which principle, what the critic said, and what its revision is worth. `why` says why it is not fit."""

    principle: str
    critique: str
    revision: str
    why: str = ""
    value: float | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the next round begins with it: it is an answer, if not one to learn from."""
        return self.why not in NO_ANSWER


@dataclass
class Trail:
    """All that became of one prompt. `text` is the answer so far; `value` is what the first answer is worth."""

    prompt: Prompt
    principles: tuple[Principle, ...]
    first: str
    value: float | None = None
    rounds: list[Round] = field(default_factory=list)
    text: str = ""

    def taken(self, judged: bool) -> tuple[int, str]:
        """(the round whose revision is taken, counted from 0, and nothing) or (-1, why there is none): the earliest of the
        best by what they are worth, else the last that is fit."""
        fit = [n for n, each in enumerate(self.rounds) if not each.why]
        if not fit:
            return -1, self.rounds[-1].why
        if not judged:
            return fit[-1], ""
        values = {n: value for n in fit if (value := self.rounds[n].value) is not None}
        if not values or self.value is None:
            return -1, "no verdict"
        best = max(values, key=lambda n: (values[n], -n))
        return (best, "") if values[best] >= self.value else (-1, "worse than the first answer")


def talk(trail: Trail, n: int, language: str, shown: Messages, critique: str | None = None) -> Messages:
    """What a critic reads in round `n`: up to the request for its critique, or for its revision after the `critique`."""
    principle = trail.principles[n]
    n_system = sum(message.role == "system" for message in trail.prompt.messages[:1])
    asked = trail.prompt.messages
    more: Messages = (Message("assistant", trail.text), Message("user", principle.critique[language]))
    if critique is not None:
        more += (Message("assistant", critique), Message("user", principle.revision[language]))
    return (*asked[:n_system], *shown, *asked[n_system:], *more)


def shown_turns(constitution: Constitution, examples: Iterable[Shown]) -> Messages:
    """Examples as the turns of the talk that they were."""
    turns: list[Message] = []
    for example in examples:
        principle, language = constitution.named(example.principle), example.language
        user = (example.request, principle.critique[language], principle.revision[language])
        said = (example.answer, example.critique, example.revision)
        for asks, answers in zip(user, said, strict=True):
            turns += [Message("user", asks), Message("assistant", answers)]
    return tuple(turns)


def why_unfit(revision: str, finished: bool, trail: Trail, principle: Principle, filters: Filters) -> str:
    """Why a revision is not fit to be learnt, by itself; empty where it is."""
    if not revision.strip():
        return "empty"
    if not finished:
        return "unfinished"
    requests = (*principle.critique.values(), *principle.revision.values())
    if LEAK.search(revision) or any(request in revision for request in requests):
        return "role leak"
    if filters.likeness is not None and likeness(trail.first, revision) >= filters.likeness:
        return "copy"
    ratio = len(revision) / max(len(trail.first), 1)
    return "" if filters.shortest <= ratio <= filters.longest else "length"


def likeness(one: str, other: str) -> float:
    """From 0 to 1: the share of their pieces that two texts have in common, letter case and blanks aside."""
    a, b = shingles_of(one), shingles_of(other)
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def boilerplate(texts: Sequence[str], share: float) -> list[bool]:
    """Which texts are too many of a kind: beyond the `share` of all that may be one text, or of which more than half of
    the phrases of N_GRAM words stand in more than that share of all. The first of them stay; a set of a few is no sign."""
    allowed = max(int(share * len(texts) + 1e-9), 1)
    words = [tuple(WORD.findall(text.casefold())) for text in texts]
    grams = [{said[n : n + N_GRAM] for n in range(max(len(said) - N_GRAM + 1, 1))} for said in words]
    often = Counter(gram for each in grams for gram in each)
    seen: Counter[str] = Counter()
    found = []
    for said, each in zip(words, grams, strict=True):
        common = sum(often[gram] > allowed for gram in each) * 2 > len(each)
        kinds = [" ".join(said), *(["\0common"] if common else [])]
        found.append(any(seen[kind] >= allowed for kind in kinds))
        if not found[-1]:
            seen.update(kinds)
    return found


@dataclass
class Effect:
    """What a principle did: how often it was `used`, how often the verdict or reward on an answer (without either, the
    answer) `changed` by it, how often its revision was `taken`, and the changes of reward."""

    used: int = 0
    changed: int = 0
    taken: int = 0
    gains: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, float]:
        gain = {"gain": sum(self.gains) / len(self.gains)} if self.gains else {}
        return {"used": self.used, "changed": self.changed, "taken": self.taken, **gain}


def effects(trails: Iterable[Trail], judged: bool) -> Mapping[str, dict[str, float]]:
    """By the name of each principle, the most used first."""
    found: dict[str, Effect] = {}
    for trail in trails:
        taken, _ = trail.taken(judged)
        text, value = trail.first, trail.value
        for n, each in enumerate(trail.rounds):
            effect = found.setdefault(each.principle, Effect())
            effect.used += 1
            effect.taken += n == taken
            if not each.goes_on:
                continue
            effect.changed += each.value != value if judged else each.revision != text
            if each.value is not None and value is not None:
                effect.gains.append(each.value - value)
            text, value = each.revision, each.value
    return {name: found[name].as_dict() for name in sorted(found, key=lambda name: -found[name].used)}
