"""From attempts to what is learnt of them: who is kept, what should have been answered, and what stands beside it.

An attempt is a row of `red_team`: a conversation that ends with the answer of the attacked model, with the columns `verdict`,
`attack`, `goal`, `goal_id` and `n`. Everything here is pure but the drawing of numbers, which a generator is handed in for.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from posttrain.functional.encodings import CODES
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Answered, Message, Messages, Prompt
from posttrain.schema.verdicts import VERDICTS, Verdict

WRITTEN: tuple[Callable[[str], str], ...] = (str, *(code.write for code in CODES.values()))
"""How a request may stand in an attack: letter by letter, or in a code."""


@dataclass(frozen=True)
class Attempt:
    """What was asked, what was answered, and how it was judged. `severity` orders attempts, the worst first: the goal's own
    number, or else how soon the attack got through."""

    asked: Messages
    said: str
    verdict: Verdict
    family: str
    goal: str
    goal_id: str
    severity: float
    columns: Mapping[str, Any]
    target: str | None = None


def attempt(row: Answered) -> Attempt:
    """An attempt from its row. Raises DataError for a row that is none."""
    columns = row.prompt.columns
    verdict = columns.get("verdict")
    if verdict not in VERDICTS:
        raise DataError(
            f"A row has the verdict {str(verdict)[:40]!r}, and an attempt's is complied, refused or unclear. Give rows of a "
            "`red_team` stage, or a column `verdict`."
        )
    severity, n = _number(columns.get("severity")), _number(columns.get("n"))
    number = 1 / (1 + max(n or 0.0, 0.0)) if severity is None else severity
    return Attempt(
        row.prompt.messages, row.said.content, verdict, str(columns.get("attack", "")),
        str(columns.get("goal", row.prompt.messages[-1].content)), str(columns.get("goal_id", "")),
        number, columns, row.prompt.answer,
    )  # fmt: skip


def _number(value: Any) -> float | None:
    """A finite number, also one that is written out, as in a CSV file; None for anything else."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and isfinite(number) else None


def worst_first(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Those that got through before those that did not, and the more severe before the others."""
    return sorted(attempts, key=lambda each: (each.verdict != "complied", -each.severity))


def capped(
    attempts: Iterable[Attempt], per_family: int | None, per_goal: int | None, left: Counter[str]
) -> list[Attempt]:
    """The first attempts, at most so many of each attack and of each request; `left` counts the others."""
    kept: list[Attempt] = []
    families: Counter[str] = Counter()
    goals: Counter[str] = Counter()
    for each in attempts:
        if per_family is not None and families[each.family] >= per_family:
            left["the cap of its attack"] += 1
        elif per_goal is not None and goals[each.goal_id] >= per_goal:
            left["the cap of its request"] += 1
        else:
            families[each.family] += 1
            goals[each.goal_id] += 1
            kept.append(each)
    return kept


def distinct(
    attempts: Sequence[Attempt], alike: Callable[[Sequence[str]], Sequence[bool]], left: Counter[str]
) -> list[Attempt]:
    """The attempts that do not repeat an earlier one, as `alike` tells of their texts."""
    repeats = alike(["\n".join(message.content for message in each.asked) for each in attempts])
    left["alike to another"] += sum(repeats)
    return [each for each, repeated in zip(attempts, repeats, strict=True) if not repeated]


def twin(attempt: Attempt, harmless: Prompt) -> Messages | None:
    """The same attack around a harmless request; None where the request stands in it neither letter by letter nor in a
    code, as where a model wrote it anew."""
    question = harmless.messages[-1].content
    for code in WRITTEN:
        goal = code(attempt.goal)
        if any(goal in message.content for message in attempt.asked):
            return tuple(replace(m, content=m.content.replace(goal, code(question))) for m in attempt.asked)
    return None


def recovery(attempt: Attempt, target: str, draw: random.Random, most_words: int) -> Message:
    """An answer that begins as the attacked model's did, which is given, and turns to what it should have been (Qi et al.
    2024, arXiv 2406.05946: refusals that are only a few tokens deep are lost with their first words)."""
    words = attempt.said.split(" ")
    given = " ".join(words[: draw.randint(1, max(1, min(most_words, len(words))))])
    return Message("assistant", f"{given} {target}", given=given)


def told(kept: int, of: int, left: Mapping[str, int], unclear: int) -> str:
    """What became of the attempts, in one line."""
    reasons = [f"{n} left out as {reason}" for reason, n in left.items() if n]
    if unclear:
        reasons.append(f"{unclear} unclear, for a human to look at in review.jsonl")
    return "; ".join([f"{kept} of {of} attempts are learnt from", *reasons]) + "."
