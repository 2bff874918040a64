"""One question with its one right answer: what every task of the lab makes."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Item:
    """A question of one task; `extra` holds what a grader or a test may want besides."""

    task: str
    prompt: str
    answer: str
    extra: Mapping[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """The plain-text form, as pretraining text writes it: question, space, answer."""
        return f"{self.prompt} {self.answer}"
