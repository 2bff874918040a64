"""Commands that look for a setting: `lr-find`."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain import recipes as shelf
from posttrain.schema.errors import PosttrainError, UsageError, nearest
from posttrain.schema.find import methods

from .terminal import Paint, Terminal
from .words import Words, split

if TYPE_CHECKING:
    from posttrain.engine.lr_find import Curve

MOST_LINES = 15


def lr_find(words: list[str], terminal: Terminal) -> int:
    """`posttrain lr-find RECIPE [STAGE] | MODEL METHOD data=… [path=value …]`"""
    about = (
        "Trains a copy of a stage's model with a rate that rises until the loss explodes, and suggests one. Name a "
        "recipe and its stage, or a model and a method: posttrain lr-find lab sft data=lab:chat/train. Nothing is kept."
    )
    parser = Words("lr-find", about).with_overrides().with_out()
    parser.add_argument("--steps", type=int, default=70, metavar="N", help="steps of the test (default: 70)")
    parser.add_argument("--from", type=float, default=1e-7, metavar="RATE", help="first rate (default: 1e-7)")
    parser.add_argument("--to", type=float, default=1.0, metavar="RATE", help="last rate (default: 1)")
    asked = parser.read(words)
    lowest = getattr(asked, "from")
    if not 0 < lowest < asked.to or asked.steps < 2:
        raise UsageError(f"Rates rise from {lowest:g} to {asked.to:g} in {asked.steps} steps: give 0 < --from < --to.")
    recipe, stage, overrides = _what(asked)
    terminal.draw("  loading …")
    from posttrain.pipeline.rates import find_rate

    def watch(step: int, rate: float, loss: float) -> None:
        terminal.draw(f"  step {step}/{asked.steps}  rate {rate:.1e}  loss {loss:.3f}")

    how = {"steps": asked.steps, "lowest": lowest, "highest": asked.to}
    found = find_rate(recipe, overrides, stage, out=asked.out, watch=watch, **how)
    _tell(found.stage, found.curve, terminal)
    if found.curve.suggested is None:
        raise PosttrainError(
            f"The loss of {found.stage!r} did not fall at any rate from {lowest:g} to {asked.to:g}. Look at its rows with "
            "`posttrain plan`, or take more steps: --steps 200."
        )
    setting = f"{found.stage}.learning_rate={found.curve.suggested:.1e}"
    if isinstance(recipe, Path):
        terminal.next(" ".join(["posttrain run", *asked.words[:1], *overrides, setting]))
    else:
        terminal.next(
            " ".join(
                [
                    "posttrain",
                    *asked.words[1:2],
                    f"model={asked.words[0]}",
                    *split(asked.words)[1],
                    setting.partition(".")[2],
                ]
            )
        )
    return 0


def _what(asked: argparse.Namespace) -> tuple[Path | str, str | None, list[str]]:
    """(recipe, stage, overrides) of a recipe and a stage's name, or of a model and a method."""
    names, overrides = split(asked.words)
    if not 1 <= len(names) <= 2:
        raise UsageError("Name a recipe and a stage, or a model and a method: posttrain lr-find lab sft data=FILE.")
    first, second = names[0], names[1] if len(names) > 1 else None
    if first in shelf.shipped() or first.endswith((".yaml", ".yml")) or second is None:
        return shelf.locate(first), second, overrides
    trains = [entry.name for entry in methods().values() if entry.kind == "objective"]
    if second not in trains and ":" not in second:
        raise UsageError(f"{second!r} is no method that trains. {nearest(second, trains)}")
    short = second.rpartition(":")[2].lower()
    settings = [part if part.partition("=")[0] == "seed" else f"{short}.{part}" for part in overrides]
    return f"name: {short}\nmeasure: [size]\nstages: [{second!r}]\n", short, [f"model={first}", *settings]


def _tell(stage: str, curve: "Curve", terminal: Terminal) -> None:
    if terminal.json:
        points = [
            {"rate": rate, "loss": loss if math.isfinite(loss) else None}
            for rate, loss in zip(curve.rates, curve.losses, strict=True)
        ]
        terminal.object({"stage": stage, "suggested": curve.suggested, "start": curve.start, "curve": points})
        return
    terminal.clear()
    for line in _table(curve):
        terminal.answer(line)
    if curve.suggested is not None:
        terminal.answer("Suggested  ", Paint(f"learning_rate: {curve.suggested:.1e}", "bold"))


def _table(curve: "Curve") -> Sequence[str]:
    """A line for some of the rates, evenly spread, and for the one that is suggested."""
    n = len(curve.rates)
    shown = {round(i * (n - 1) / (MOST_LINES - 1)) for i in range(MOST_LINES)} if n > MOST_LINES else set(range(n))
    if curve.suggested is not None:
        shown.add(curve.rates.index(curve.suggested))
    lines = [f"   rate      loss   ({curve.start:.3f} before)"]
    for i in sorted(shown):
        mark = "  <- suggested" if curve.rates[i] == curve.suggested else ""
        lines.append(f"{curve.rates[i]:8.1e}  {curve.losses[i]:8.3f}{mark}")
    return lines
