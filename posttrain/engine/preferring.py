"""Which of two answers a model prefers by principles, as a probability (Bai et al. 2022, arXiv 2212.08073: RLAIF).

    p = mean over principles, mean over both orders of   p(A) where the first answer stands as A, 1 - p(A) where as B

Asked in both orders, a liking for one letter takes itself away. After reasons a model is nearly always sure, however the
matter lies; such probabilities are clamped before they are averaged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from posttrain.data.constitution import Principle
from posttrain.functional.comparing import comparison, verdict_after_reasons
from posttrain.functional.seeds import seed_of
from posttrain.models.feedback import Feedback
from posttrain.models.questions import spoken
from posttrain.models.sampler import Sampling
from posttrain.schema.rows import Message, Messages, Prompt

LONGEST = 8000  # characters of a text that a model is shown


@dataclass(frozen=True)
class Compared:
    """Two answers to a prompt, to be compared by principles. `number` names the draws of its reasons."""

    prompt: Prompt
    first: str
    second: str
    principles: tuple[Principle, ...]
    number: int = 0


@dataclass(frozen=True)
class Reading:
    """What one principle said: the probability that the first answer is the better one, with the first answer as A, and
    with it as B. None where the model did not say."""

    principle: str
    as_a: float | None
    as_b: float | None

    def probability(self, clamp: tuple[float, float] | None = None) -> float | None:
        """Over both orders; each clamped where that is asked for."""
        if self.as_a is None or self.as_b is None:
            return None
        low, high = clamp or (0.0, 1.0)
        return fmean(min(max(p, low), high) for p in (self.as_a, self.as_b))

    @property
    def orders_disagree(self) -> bool:
        """Whether another answer is preferred when they change places."""
        return self.as_a is not None and self.as_b is not None and (self.as_a - 0.5) * (self.as_b - 0.5) < 0


@dataclass
class Preferring:
    """Asks a model which answers it prefers. With `reason` it writes reasons first, as `sampling` says."""

    feedback: Feedback
    language: str
    reason: Sampling | None
    seed: int
    watch: Callable[[int], None]

    def readings(self, pairs: Sequence[Compared]) -> list[list[Reading]]:
        """What every principle of every pair says, in order."""
        asked = [(pair, principle) for pair in pairs for principle in pair.principles]
        talks = [talk for pair, principle in asked for talk in self._talks(pair, principle)]
        numbers = [seed_of(pair.number, turn) for pair, _ in asked for turn in (0, 1)]
        found = self._letters(talks, numbers)
        told = iter(zip(found[::2], found[1::2], strict=True))
        both = [[(principle, next(told)) for principle in pair.principles] for pair in pairs]
        return [[Reading(principle.id, a, None if b is None else 1 - b) for principle, (a, b) in each] for each in both]

    def _talks(self, pair: Compared, principle: Principle) -> tuple[Messages, Messages]:
        """The question in both orders."""
        asked, reasons = principle.comparison[self.language], self.reason is not None
        question = spoken(pair.prompt.messages)
        one, other = (
            comparison(asked, question, a, b, self.language, reasons, LONGEST)
            for a, b in ((pair.first, pair.second), (pair.second, pair.first))
        )
        return (Message("user", one),), (Message("user", other),)

    def _letters(self, talks: Sequence[Messages], numbers: Sequence[int]) -> list[float | None]:
        """The probability of A in every talk, after reasons where they are wanted; None where there is no reply."""
        if self.reason is None:
            return self.feedback.first_letter(talks, self.watch)
        said = self.feedback.say(talks, self.reason, self.seed, numbers, self.watch)
        ask = Message("user", verdict_after_reasons(self.language))
        with_reasons = [n for n, each in enumerate(said) if each.text is not None]
        longer = [(*talks[n], Message("assistant", said[n].text or ""), ask) for n in with_reasons]
        found: list[float | None] = [None] * len(talks)
        told = self.feedback.first_letter(longer, lambda done: self.watch(len(talks) + done))
        for n, probability in zip(with_reasons, told, strict=True):
            found[n] = probability
        return found


def probability(readings: Sequence[Reading], clamp: tuple[float, float] | None = None) -> float | None:
    """The mean over the principles that said something; None where none did."""
    found = [p for reading in readings if (p := reading.probability(clamp)) is not None]
    return fmean(found) if found else None
