"""A judge: a model that says which of two answers is better, how good one is, or what became of a request.

    compare   asked twice, with the answers in either order: {first, second, tie}. A judge that changes its mind with the
              order has no preference: a tie, counted as `orders disagree`
    grade     a whole number on a scale, as a share of it: (n - low) / (high - low)
    decide    one of three words: {complied, refused, unclear}

How a question is protected from what answers say stands in `questions`. A reply without a verdict gives None, and is
counted by its reason.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from pydantic import Field, model_validator

from posttrain.schema.artifacts import Model
from posttrain.schema.rows import Message
from posttrain.schema.verdicts import Verdict

from .endpoint import Reply
from .questions import (
    COMPARE,
    DECIDE,
    GRADE,
    RUBRIC,
    RUBRIC_OF_DECIDING,
    TURNED,
    Preferred,
    decision_in,
    grade_in,
    preference_in,
    question,
)
from .sampler import Sampling
from .speaker import CHAT, OneModel, load_speaker

Said = TypeVar("Said")
Ask = Callable[[Sequence[str]], list[Reply]]
Question = tuple[str, str]  # the word by which its verdict is told, and its text


class Asking(OneModel):
    """Who is asked."""

    who: ClassVar[str] = "judge"

    max_new_tokens: int = Field(512, ge=1)
    """Longest reply, in tokens."""
    longest: int = Field(8000, ge=1)
    """Longest text that the judge is shown, in characters; of a longer one it is told how much is left out."""


class Judging(Asking):
    """Who judges how good answers are, and what is asked."""

    rubric: str = RUBRIC
    """What counts, in words that the judge is told."""
    scale: tuple[int, int] = (1, 10)
    """The lowest and the highest grade."""
    compare_prompt: str = COMPARE
    """What the judge is asked of two answers, with places {rubric}, {prompt}, {a}, {b} and {verdict}."""
    grade_prompt: str = GRADE
    """What the judge is asked of one answer, with places {rubric}, {prompt}, {answer}, {verdict}, {low} and {high}."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Judging":
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"the scale {list(self.scale)} has no room: give the lower end first, as `[1, 10]`")
        for name, places in {"compare_prompt": ("prompt", "a", "b"), "grade_prompt": ("prompt", "answer")}.items():
            _check_prompt(name, getattr(self, name), places, preference_in)
        return self


class Ruling(Asking):
    """Who says what became of requests, and what is asked."""

    rubric: str = RUBRIC_OF_DECIDING
    """What counts, in words that the judge is told."""
    prompt: str = DECIDE
    """What the judge is asked, with places {rubric}, {prompt}, {answer} and {verdict}."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Ruling":
        _check_prompt("prompt", self.prompt, ("prompt", "answer"), decision_in)
        return self


def _check_prompt(name: str, prompt: str, places: Sequence[str], read: Callable[[str, str], object]) -> None:
    """Raises ValueError for a prompt that lacks a place, and for one that could be repeated as a verdict."""
    missing = [place for place in (*places, "verdict") if f"{{{place}}}" not in prompt]
    if missing:
        raise ValueError(f"`{name}` has no place for the {missing[0]}: write `{{{missing[0]}}}` into it")
    if read(prompt.replace("{verdict}", "verdict"), "verdict"):
        raise ValueError(f"`{name}` ends with a verdict, which a judge could repeat: end it with something else")


@dataclass
class Asker:
    """Asks for verdicts. `counts` says how many questions were asked and, by reason, what became of the others; `seed`
    changes the words that verdicts are told by."""

    settings: Asking
    ask: Ask
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def _verdicts(self, questions: Sequence[Question], read: Callable[[str, str], Said | None]) -> list[Said | None]:
        """The verdict on each question, as its reply is `read`."""
        found: list[Said | None] = []
        for word, reply in self._replies(questions):
            verdict = None if reply.text is None else read(reply.text, word)
            self._why(verdict, reply)
            found.append(verdict)
        return found

    def _replies(self, questions: Sequence[Question]) -> Iterator[tuple[str, Reply]]:
        """What was said to each question, with the word by which its verdict is told."""
        replies = self.ask([asked for _, asked in questions]) if questions else []
        self.counts["asked"] += len(questions)
        yield from zip((word for word, _ in questions), replies, strict=True)

    def _why(self, verdict: object, reply: Reply) -> str:
        """Why there is no verdict, which is counted; empty where there is one."""
        why = "" if verdict is not None else reply.why or "unparsed"
        self.counts.update([why] if why else [])
        return why


@dataclass
class Judge(Asker):
    """Says how good answers are."""

    settings: Judging

    def compare(self, prompt: str, first: str, second: str) -> Preferred | None:
        """Which of two answers is better; None without a verdict."""
        return self.compare_all([(prompt, first, second)])[0]

    def grade(self, prompt: str, answer: str) -> float | None:
        """How good an answer is, from 0 to 1; None without a verdict."""
        return self.grade_all([(prompt, answer)])[0]

    def compare_all(self, triples: Sequence[tuple[str, str, str]]) -> list[Preferred | None]:
        """The same of many (prompt, first, second), each asked in both orders. Two answers that are one and the same are a
        tie without a question."""
        asked = [(prompt, *order) for prompt, a, b in triples if a != b for order in ((a, b), (b, a))]
        template = self.settings.compare_prompt
        questions = [self._question(template, prompt=prompt, a=a, b=b) for prompt, a, b in asked]
        said: Iterator[Preferred | None] = iter(self._verdicts(questions, preference_in))
        return [self._settled(next(said), next(said)) if a != b else "tie" for _, a, b in triples]

    def grade_all(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """The same of many (prompt, answer)."""
        template, (low, high) = self.settings.grade_prompt, self.settings.scale
        questions = [self._question(template, prompt=prompt, answer=answer) for prompt, answer in pairs]
        grades = self._verdicts(questions, lambda reply, word: grade_in(reply, word, low, high))
        return [None if grade is None else (grade - low) / (high - low) for grade in grades]

    def _settled(self, one: Preferred | None, other: Preferred | None) -> Preferred | None:
        """What the verdicts on both orders come to; for the `other` the answers had changed places."""
        if one is None or other is None:
            return None
        if one != TURNED[other]:
            self.counts["orders disagree"] += 1
            return "tie"
        return one

    def _question(self, template: str, **texts: str) -> Question:
        low, high = self.settings.scale
        told = {"rubric": self.settings.rubric, "low": str(low), "high": str(high)}
        return question(template, told, texts, self.settings.longest, self.seed)


@dataclass
class Ruler(Asker):
    """Says what became of requests."""

    settings: Ruling

    def decide_all(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Verdict | None, str]]:
        """The verdict on each (prompt, answer), and why there is none. That is not `unclear`: nothing was said."""
        template, told = self.settings.prompt, {"rubric": self.settings.rubric}
        texts = [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]
        asked = [question(template, told, each, self.settings.longest, self.seed) for each in texts]
        found: list[tuple[Verdict | None, str]] = []
        for word, reply in self._replies(asked):
            verdict = None if reply.text is None else decision_in(reply.text, word)
            found.append((verdict, self._why(verdict, reply)))
        return found


def load_judge(settings: Judging, model: Model | None, seed: int = 0) -> Judge:
    """The judge that settings name; `model` is the artifact where they name one. Raises ModelError, and UsageError where
    the key of an endpoint is not set."""
    return Judge(settings, load_ask(settings, model), seed)


def load_ruler(settings: Ruling, model: Model | None, seed: int = 0) -> Ruler:
    """The same for what became of requests."""
    return Ruler(settings, load_ask(settings, model), seed)


def load_ask(settings: Asking, model: Model | None) -> Ask:
    """What asks whoever settings name, greedily."""
    speaker = load_speaker(settings, model, Sampling(max_new_tokens=settings.max_new_tokens), program=CHAT)
    return lambda questions: speaker.replies([(Message("user", q),) for q in questions], range(len(questions)))
