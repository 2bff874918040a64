"""Writing events: each is a line of `events.jsonl`, flushed, and is told to whoever watches.

Of the progress of a long stage every n-th step is written, 500 points at most, and two a second are told. The time
left and the alerts are computed here, from events alone.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from posttrain.engine.files import room_for
from posttrain.schema.events import Event

from .alerts import LossWatch

MOST_POINTS = 500
TOLD_S = 0.5  # at most two points a second are told
WINDOW = 50  # points that the time left is reckoned from
ENOUGH = 20  # points before it is reckoned at all, or
ENOUGH_S = 5.0  # seconds over at least three points

Told = Callable[[Event], None]


class Events:
    """The event file of a run. A line that a killed run left torn is closed, so that the next one is whole."""

    def __init__(self, path: Path, told: Told | None = None, clock: Callable[[], float] = time.time):
        self.path, self.told, self.clock = path, told, clock
        torn = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
        with room_for("the event file", path):
            self.file = path.open("a", encoding="utf-8")
        if torn:
            self.file.write("\n")

    def emit(self, kind: str, /, **fields: Any) -> None:
        """Writes and tells."""
        self.put(Event(kind, self.clock(), tidy(fields)))

    def put(self, event: Event, *, write: bool = True, tell: bool = True) -> None:
        if write:
            line = event.line() + "\n"
            with room_for("the event file", self.path, len(line)):
                self.file.write(line)
                self.file.flush()
        if tell and self.told is not None:
            self.told(event)

    def of(self, stage: str, **more: Any) -> Callable[..., None]:
        """What a job emits through: its events carry the stage's name, and progress is thinned and timed."""
        progress = _Progress(self, {"stage": stage, **more})

        def emit(kind: str, /, **fields: Any) -> None:
            if kind == "progress":
                progress.point(fields)
            else:
                self.emit(kind, **{"stage": stage, **more, **fields})

        return emit

    def close(self) -> None:
        with suppress(OSError):  # what a full disk has no room for was told when it was put
            self.file.close()


class _Progress:
    """The points of one stage, on their way to the file and to whoever watches."""

    def __init__(self, events: Events, named: Mapping[str, Any]):
        self.events, self.named = events, named
        self.recent: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self.last_told = -math.inf
        self.loss = LossWatch()

    def point(self, fields: Mapping[str, Any]) -> None:
        now, step, of = self.events.clock(), int(fields["step"]), max(1, int(fields["of"]))
        if self.recent and step <= self.recent[-1][1]:
            self.recent.clear()
        self.recent.append((now, step))
        due = now - self.last_told >= TOLD_S or step >= of
        self.last_told = now if due else self.last_told
        left = left_s(self.recent, of)
        timed = {} if left is None else {"left_s": left}
        event = Event("progress", now, tidy({**self.named, **fields, **timed}))
        self.events.put(event, write=self.kept(fields, step, of, due), tell=due)
        on_rows = "answer_tokens" not in fields  # a loss on the policy's own answers need not fall as it gets better
        for alert in self.loss.alerts(step, fields.get("loss"), falls=on_rows):
            self.events.emit("alert", **{**self.named, **alert})

    def kept(self, fields: Mapping[str, Any], step: int, of: int, due: bool) -> bool:
        """Whether a point goes into the file: without a loss, only what is told; else every n-th, and what is broken."""
        loss = fields.get("loss")
        if loss is None:
            return due
        return step % math.ceil(of / MOST_POINTS) == 0 or step in (1, of) or not math.isfinite(loss)


def left_s(recent: "deque[tuple[float, int]]", of: int) -> float | None:
    """Seconds that are left, from (time, step) of the recent points; None while there are too few to tell."""
    if len(recent) < 3:
        return None
    (first, begun), (now, step) = recent[0], recent[-1]
    if len(recent) < ENOUGH and now - first < ENOUGH_S:
        return None
    return round((of - step) * (now - first) / (step - begun), 1)


def tidy(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as JSON holds them: numbers to six digits, and null for what is not finite."""
    return {name: _tidy(value) for name, value in fields.items()}


def _tidy(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")  # a file name may hold what UTF-8 cannot
    if isinstance(value, Mapping):
        return tidy(value)
    return [_tidy(inner) for inner in value] if isinstance(value, list | tuple) else value
