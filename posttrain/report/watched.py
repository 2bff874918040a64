"""What was watched while a stage trained, in sentences: what it learnt against what it forgot, and where it stopped."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard


def watched(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """One sentence each for the budget and for stopping early, from what the artifact records; numbers alone are shown.

    >>> watched({"stop_early": {"best_step": 40, "held_out_loss": 1.25}})
    ('Kept are the weights of step 40, where the held-out loss was lowest: 1.25.',)
    """
    return (*_budget(facts.get("forget")), *_stopped(facts.get("stop_early")))


def _budget(found: Any) -> Iterator[str]:
    general = _moved(found, "general")
    if general is None:
        return
    learnt, (before, after) = _moved(found, "learnt"), general
    parts = [f"general text {_arrow(general)} ({after / before - 1:+.1%}{_limit(found)})"]
    if learnt is not None:
        parts.insert(0, f"the rows that were learnt {_arrow(learnt)} ({learnt[1] / learnt[0] - 1:+.1%})")
    steps = found.get("crossed_at")
    crossed = [str(step) for step in steps if isinstance(step, int)] if isinstance(steps, list) else []
    yield f"Perplexity of {', of '.join(parts)}. {_crossed(crossed)}"


def _crossed(steps: list[str]) -> str:
    if not steps:
        return "The budget was never crossed."
    return f"The budget was crossed, and the last good weights put back, at step{'s' * (len(steps) > 1)} {', '.join(steps)}."


def _stopped(found: Any) -> Iterator[str]:
    if (
        isinstance(found, Mapping)
        and isinstance(found.get("best_step"), int)
        and _is_number(found.get("held_out_loss"))
    ):
        step, loss = found["best_step"], found["held_out_loss"]
        yield f"Kept are the weights of step {step}, where the held-out loss was lowest: {loss:.4g}."


def _moved(found: Any, name: str) -> tuple[float, float] | None:
    """Before and after, where both are there and can be compared."""
    pair = found.get(name) if isinstance(found, Mapping) else None
    before, after = (pair.get(end) if isinstance(pair, Mapping) else None for end in ("before", "after"))
    return (before, after) if _is_number(before) and _is_number(after) and min(before, after) > 0 else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # not NaN, not endless


def _arrow(pair: tuple[float, float]) -> str:
    return " → ".join(f"{value:.4g}" for value in pair)


def _limit(found: Mapping[str, Any]) -> str:
    return f", at most {found['at_most']:+.1%}" if _is_number(found.get("at_most")) else ""
