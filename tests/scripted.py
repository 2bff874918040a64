"""A feedback model that says what a function of the talk says, and remembers what it was asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from posttrain.models.endpoint import Reply
from posttrain.models.feedback import Watch
from posttrain.models.sampler import Sampling
from posttrain.schema.rows import Messages


@dataclass
class Scripted:
    """`answers` gives what is said in a talk, `letters` how likely A is."""

    answers: Callable[[Messages], str | None] = lambda talk: "well"
    letters: Callable[[Messages], float | None] = lambda talk: 0.5
    asked: list[Messages] = field(default_factory=list)

    def say(
        self, talks: Sequence[Messages], sampling: Sampling, seed: int, numbers: Sequence[int], watch: Watch
    ) -> list[Reply]:
        self.asked += talks
        watch(len(talks))
        return [Reply(self.answers(talk)) for talk in talks]

    def first_letter(self, talks: Sequence[Messages], watch: Watch) -> list[float | None]:
        self.asked += talks
        watch(len(talks))
        return [self.letters(talk) for talk in talks]
