"""A run as it is seen from a terminal: one rewritten line where there is one, plain lines where there is not.

Everything is taken from events (`posttrain.schema.events`); nothing is asked of the run.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.report.text import one_line
from posttrain.schema.events import Event

from .terminal import Paint, Part, Terminal

BAR = 20  # cells of the progress bar
EVERY_S, EVERY_SHARE, AT_LEAST_S = 30.0, 0.05, 1.0  # without a terminal: a line each 30 s or 5 %, at most one a second
REDRAW_S = 0.1


class Watcher:
    """Listens to a run. Call it with each event. `with_changes` shows what overrides changed in a recipe."""

    def __init__(self, terminal: Terminal, with_changes: bool = True):
        self.terminal = terminal
        self.with_changes = with_changes
        self.last_time = 0.0
        self.last_share = 0.0
        self.wide = 8
        self.tell: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
            "run_started": self.run_started,
            "stage_started": self.stage_started,
            "stage_kept": lambda f: self.line(f["stage"], Paint("kept", "dim")),
            "stage_not_needed": lambda f: self.line(f["stage"], Paint(f"not needed, as {f['like']} holds", "dim")),
            "stage_finished": lambda f: self.line(f["stage"], Paint("made", "green"), f" in {clock(f['seconds'])}"),
            "progress": self.progress,
            "note": self.note,
            "alert": self.alert,
            "measured": self.measured,
            "gate": self.gate,
        }

    def __call__(self, event: Event) -> None:
        if self.terminal.json:
            self.terminal.object({"event": event.kind, "time": round(event.time, 3), **event.fields})
        elif event.kind in self.tell:
            self.tell[event.kind](event.fields)

    def line(self, who: str, *what: Part) -> None:
        """One line for good: who, then what."""
        when = "" if self.terminal.live else time.strftime("%H:%M:%S ")
        self.terminal.say(when, "  " if self.terminal.live else "", Paint(f"{who:<{self.wide}}", "bold"), "  ", *what)

    def run_started(self, fields: Mapping[str, Any]) -> None:
        self.wide = max([self.wide, *(len(name) for name in fields.get("stages", []))])
        self.line("run", str(fields.get("run", "")))
        for change in fields.get("changes", ()) if self.with_changes else ():
            self.line("change", one_line(change))

    def stage_started(self, fields: Mapping[str, Any]) -> None:
        self.last_time, self.last_share = time.monotonic(), 0.0
        if self.terminal.live:
            self.terminal.draw(f"  {fields['stage']:<{self.wide}}  …")
        else:
            self.line(fields["stage"], "started")

    def progress(self, fields: Mapping[str, Any]) -> None:
        step, of = fields["step"], max(1, fields["of"])
        now, share = time.monotonic(), step / of
        what = f"measuring {fields['measure']}  " if "measure" in fields else ""
        if self.terminal.live:
            if now - self.last_time >= REDRAW_S or step == of:
                self.last_time = now
                shown = f"[{bar(share)}] {share:>4.0%}  {what}{figures(fields)}"
                self.terminal.draw(f"  {fields['stage']:<{self.wide}}  {shown}")
        elif self.is_due(now, share):
            self.last_time, self.last_share = now, share
            self.line(fields["stage"], f"{what}step {step}/{of}  {figures(fields)}".rstrip())

    def is_due(self, now: float, share: float) -> bool:
        """Whether a plain line is due: after 30 s or 5 %, but no two within a second."""
        since = now - self.last_time
        if share < self.last_share:  # something else has begun
            self.last_share = 0.0
        return since >= EVERY_S or (share - self.last_share >= EVERY_SHARE and since >= AT_LEAST_S)

    def note(self, fields: Mapping[str, Any]) -> None:
        self.line(fields.get("stage") or "", Paint(one_line(fields["text"]), "dim"))

    def alert(self, fields: Mapping[str, Any]) -> None:
        cure = f" {fields['cure']}" if fields.get("cure") else ""
        self.line(fields.get("stage") or "", Paint("! ", "yellow"), one_line(f"{fields['title']}{cure}"))

    def measured(self, fields: Mapping[str, Any]) -> None:
        kept = fields.get("kept")
        if self.terminal.verbose or not (self.terminal.live or kept):
            self.line(fields["model"], f"measured {fields['measure']}", Paint("  kept" if kept else "", "dim"))
        elif not kept:
            self.terminal.draw(f"  {fields['model']:<{self.wide}}  measured {fields['measure']}")

    def gate(self, fields: Mapping[str, Any]) -> None:
        passed = fields["passed"]
        failed = Paint("not yet", "yellow") if fields.get("goes_on") else Paint("FAILED", "red")
        verdict = Paint("passed", "green") if passed else failed
        found = fields["value"]
        shown = f"{found:.4g}" if isinstance(found, int | float) else str(found)
        self.line(fields["stage"], f"gate {fields['rule']}: {shown}  ", verdict)


def bar(share: float) -> str:
    """A progress bar of BAR cells."""
    full = round(BAR * min(1.0, max(0.0, share)))
    return "█" * full + "░" * (BAR - full)


def figures(fields: Mapping[str, Any]) -> str:
    """Loss, speed and the time left, as far as they are known."""
    shown = []
    if (loss := fields.get("loss")) is not None:
        shown.append(f"loss {loss:.4g}")
    if speed := fields.get("tokens_per_s"):
        shown.append(f"{speed / 1000:.1f}k tok/s" if speed >= 1000 else f"{speed:.0f} tok/s")
    if (left := fields.get("left_s")) is not None:
        shown.append(f"{clock(left)} left")
    return "  ".join(shown)


def clock(seconds: float) -> str:
    """A duration as a clock shows it.

    >>> clock(0.42), clock(31), clock(3725)
    ('0.4 s', '0:31', '1:02:05')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
