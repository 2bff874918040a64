"""Alerts: what should make a reader look, computed from events, facts and findings, so that what is kept warns again."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from statistics import fmean, stdev
from typing import Any

from posttrain.schema.findings import Findings

RECENT = 5  # steps whose mean loss is held against
EARLIER = 50  # the steps before them
SIGMAS = 3.0
MOST_CUT = 0.05
MOST_DROPPED = 0.01


class LossWatch:
    """Notices a loss that is not finite, or whose mean over RECENT steps lies SIGMAS standard deviations of single
    steps above that of the EARLIER ones. Says so once, and again only after it has come down."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=EARLIER + RECENT)
        self.high = False

    def alerts(self, step: int, loss: float | None, falls: bool = True) -> Iterator[dict[str, Any]]:
        """What a step's loss gives reason to say, as the fields of an alert; `falls` says that it should fall at all."""
        if loss is None:
            return
        if not math.isfinite(loss):
            cure = "Lower `learning_rate`, or train in `dtype: float32`."
            yield {"level": "error", "step": step, "title": f"the loss of step {step} is not finite", "cure": cure}
            return
        if not falls:
            return
        self.losses.append(loss)
        risen = self.risen()
        if risen and not self.high:
            cure = "Lower `learning_rate`, or look at the rows around this step."
            yield {"level": "warning", "step": step, "title": f"the loss rose at step {step}: {risen}", "cure": cure}
        self.high = bool(risen)

    def risen(self) -> str:
        """How the loss rose, in words; empty when it did not."""
        losses = list(self.losses)
        earlier, recent = losses[:-RECENT], losses[-RECENT:]
        if len(earlier) < 2 * RECENT:
            return ""
        before, now = fmean(earlier), fmean(recent)
        return f"{before:.3g} -> {now:.3g}" if now > before + SIGMAS * stdev(earlier) else ""


def of_facts(facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the rows of a training stage give reason to say: too many were cut, or held nothing to learn."""
    rows, cut, dropped = (facts.get(name, 0) for name in ("rows", "rows_cut", "rows_dropped"))
    if rows and cut > MOST_CUT * rows:
        title = f"{cut} of {rows} rows were cut at `max_length`"
        yield {"level": "warning", "title": title, "cure": "Raise `max_length`, or leave such rows out."}
    if rows and dropped > MOST_DROPPED * rows:
        title = f"{dropped} of {rows} rows were left out: nothing in them is learnt"
        yield {"level": "warning", "title": title, "cure": "Raise `max_length`, or look at those rows."}


def of_findings(found: Findings) -> Iterator[dict[str, Any]]:
    """What a measure flagged on a model."""
    for flag in found.flags:
        yield {"level": "warning", "title": f"{found.name}: {flag.title}", "cure": flag.cure}
