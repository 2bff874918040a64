"""Rows in which answers are judged: one of two is better, several are ranked, one is good or bad, steps are.

preferences        chosen, rejected                            two answers, or whole dialogues that end differently
rejected answers   messages, rejected                          the last message is the chosen answer
ranked answers     prompt, answers (scores)                    best first, or by their scores (InstructGPT)
labelled answers   completion or messages, label               a thumb, in many spellings
steps              prompt, steps, labels                       every step of a solution is right or wrong
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from posttrain.schema.rows import Labelled, Message, Messages, Pair, Ranked

from .cells import Cells, LeftOut, answered, asked, prompt_of, with_system
from .record import NotReadable, shown, text_of
from .turns import messages_of

UP = (
    "true",
    "1",
    "1.0",
    "+1",
    "yes",
    "good",
    "up",
    "thumbs up",
    "thumbs_up",
    "👍",
    "like",
    "desirable",
    "chosen",
    "accepted",
)
DOWN = (
    *("false", "0", "0.0", "-1", "-1.0", "no", "bad", "down", "thumbs down", "thumbs_down", "👎", "dislike"),
    *("undesirable", "rejected"),
)
THUMBS = dict.fromkeys(UP, True) | dict.fromkeys(DOWN, False)
STEP_END = "\n"
"""What stands between the steps of a solution."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A solution in steps, each of which is right or wrong."""

    prompt: Messages
    steps: tuple[str, ...]
    right: tuple[bool, ...]

    def upto(self, n: int) -> Messages:
        """The solution as far as its first `n` steps."""
        return (Message("assistant", STEP_END.join(self.steps[:n])),)

    def labelled(self) -> tuple[Labelled, ...]:
        """The solution up to each of its steps, good while the step is right; the first wrong one is the last."""
        n = next((n for n, right in enumerate(self.right, start=1) if not right), len(self.right))
        return tuple(Labelled(self.prompt, self.upto(i), self.right[i - 1]) for i in range(1, n + 1))


def thumb(label: Any) -> bool | None:
    """Up or down; None for a label that is neither."""
    return THUMBS.get(str(label).strip().lower()) if isinstance(label, str | int | float) else None


def pair(cells: Cells) -> Pair:
    """Two answers to one prompt, which stands beside them or begins both."""
    chosen, rejected = (cells.messages(side, "assistant") for side in ("chosen", "rejected"))
    if chosen[0].role != "assistant":  # whole dialogues, which differ in the last answer
        if chosen[:-1] != rejected[:-1]:
            raise LeftOut("the dialogues differ before the last answer")
        prompt, chosen, rejected = with_system(chosen[:-1], cells), chosen[-1:], rejected[-1:]
    else:
        prompt = prompt_of(cells)
    return _pair(prompt, chosen, rejected, cells)


def rejected_beside_messages(cells: Cells) -> Pair:
    """A dialogue whose last answer is the chosen one, with the rejected answer or dialogue beside it."""
    dialogue, rejected = prompt_of(cells), cells.messages("rejected", "assistant")
    if len(rejected) > 1 and rejected[:-1] != dialogue[:-1] and rejected[:-1] != dialogue[1:-1]:
        raise LeftOut("the dialogues differ before the last answer")
    return _pair(dialogue[:-1], dialogue[-1:], rejected[-1:], cells)


def _pair(prompt: Messages, chosen: Messages, rejected: Messages, cells: Cells) -> Pair:
    answers = answered(chosen, "the chosen answer"), answered(rejected, "the rejected answer")
    if chosen == rejected:
        raise LeftOut("both answers are the same")
    return Pair(asked(prompt), *answers, _number(cells, "margin"), cells.tools(), _probability(cells))


def _number(cells: Cells, role: str) -> float | None:
    value = cells.get(role)
    try:
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError) as error:
        raise NotReadable(f"the column {cells.roles[role]!r} must be a number, this is {shown(value)}") from error


def _probability(cells: Cells) -> float | None:
    value = _number(cells, "probability")
    if value is not None and not 0 <= value <= 1:  # NaN is no probability either
        raise NotReadable(f"the column {cells.roles['probability']!r} must be from 0 to 1, this is {value:g}")
    return value


def ranked(cells: Cells) -> Ranked:
    """Several answers: by their scores, the highest first, else in the order they stand in."""
    what = f"{cells.roles['answers']!r}"
    answers = [answered(messages_of(a, what, "assistant"), f"an answer of {what}") for a in cells.list("answers")]
    if len(answers) < 2:
        raise NotReadable(f"the column {what} must hold two answers or more, this has {len(answers)}")
    grades = list(map(float, range(len(answers), 0, -1)))
    if cells.get("scores") is not None:
        grades = _grades(cells, len(answers))
    order = sorted(range(len(answers)), key=lambda n: -grades[n])
    return Ranked(
        asked(prompt_of(cells)), tuple(answers[n] for n in order), tuple(grades[n] for n in order), cells.tools()
    )


def _grades(cells: Cells, n: int) -> list[float]:
    scores = cells.list("scores")
    if len(scores) != n:
        raise NotReadable(f"there are {n} answers, but {len(scores)} in the column {cells.roles['scores']!r}")
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or isnan(score):
            raise NotReadable(f"a score must be a number, this is {shown(score)}")
    return list(map(float, scores))


def labelled(cells: Cells) -> Labelled:
    """An answer with a thumb."""
    good = thumb(cells.need("label"))
    if good is None:
        raise NotReadable(f"the label must be true or false, this is {shown(cells.need('label'))}")
    if "messages" in cells.roles:
        turns = prompt_of(cells)
        prompt, completion = turns[:-1], turns[-1:]
    else:
        prompt, completion = prompt_of(cells), cells.messages("completion", "assistant")
    return Labelled(asked(prompt), answered(completion, "the completion"), good, cells.tools())


def steps(cells: Cells) -> Steps:
    """A solution in steps, with a thumb for each (process supervision)."""
    said = tuple(text_of(step, f"a step of {cells.roles['steps']!r}") for step in cells.list("steps"))
    thumbs = [thumb(label) for label in cells.list("labels")]
    if not said or len(said) != len(thumbs) or None in thumbs:
        raise NotReadable(f"there are {len(said)} steps; `labels` must say true or false of each, it has {len(thumbs)}")
    return Steps(asked(prompt_of(cells)), said, tuple(map(bool, thumbs)))


def are_lists(cells: Sequence[Any]) -> bool:
    """Whether every cell is a list of two answers or more, which are texts or messages."""
    filled = [cell for cell in cells if cell is not None]
    return bool(filled) and all(
        isinstance(cell, list) and len(cell) > 1 and all(isinstance(a, str | list) for a in cell) for cell in filled
    )
