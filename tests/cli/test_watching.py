"""Events become lines: rewritten ones on a terminal, plain ones without, JSON when asked for."""

import json
import signal

import pytest

from posttrain.cli import watching
from posttrain.cli.stopping import stoppable
from posttrain.cli.terminal import Paint, Terminal
from posttrain.cli.watching import Watcher, bar, clock, figures
from posttrain.schema.events import Event


class Screen:
    """All that was written to stderr so far."""

    def __init__(self, captured: pytest.CaptureFixture[str]):
        self.captured, self.text = captured, ""

    def getvalue(self) -> str:
        self.text += self.captured.readouterr().err
        return self.text


@pytest.fixture
def screen(capsys: pytest.CaptureFixture[str]) -> Screen:
    return Screen(capsys)


class Clock:
    """A clock that the test turns."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(watching.time, "monotonic", found)
    return found


def progress(step: int, of: int = 1000, **fields) -> Event:
    return Event("progress", 0.0, {"stage": "sft", "step": step, "of": of, "loss": 0.5, **fields})


def test_without_a_terminal_a_line_comes_every_five_per_cent_or_thirty_seconds(screen, turned):
    watch = Watcher(Terminal())
    watch(Event("stage_started", 0.0, {"stage": "sft", "method": "sft"}))
    for step in range(1, 101):  # ten per cent in ten seconds
        turned.now += 0.1
        watch(progress(step))
    lines = [line for line in screen.getvalue().splitlines() if "step" in line]
    assert [line.split("step ")[1].split("  ")[0] for line in lines] == ["50/1000", "100/1000"]
    turned.now += 31
    watch(progress(101))
    assert "step 101/1000  loss 0.5" in screen.getvalue().splitlines()[-1]


def test_without_a_terminal_nothing_is_rewritten(screen, turned):
    watch = Watcher(Terminal())
    for step in range(0, 1000, 50):
        turned.now += 5
        watch(progress(step))
    assert "\r" not in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


def test_on_a_terminal_one_line_is_rewritten_and_cleared(screen, turned):
    watch = Watcher(Terminal(live=True))
    for step in (500, 610):
        turned.now += 1
        watch(progress(step, tokens_per_s=1900.0, left_s=31.0))
    last = screen.getvalue().rpartition("\r")[2]
    assert "[████████████░░░░░░░░]  61%  loss 0.5  1.9k tok/s  0:31 left" in last
    assert "\n" not in screen.getvalue()
    watch(Event("stage_finished", 0.0, {"stage": "sft", "artifact": "x", "seconds": 31.2}))
    assert screen.getvalue().endswith("\r\x1b[2K  sft       made in 0:31\n")


def test_a_live_line_never_wraps(screen, turned, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    Terminal(live=True).draw("x" * 200)
    assert screen.getvalue() == "\r\x1b[2K" + "x" * 39


def test_json_is_the_events_themselves(capsys):
    watch = Watcher(Terminal(json=True))
    watch(progress(3))
    watch(Event("run_finished", 1.5, {"seconds": 2, "report": "r.html"}))
    told = capsys.readouterr()
    first, last = map(json.loads, told.out.splitlines())
    assert (first["event"], first["step"]) == ("progress", 3)
    assert last == {"event": "run_finished", "time": 1.5, "seconds": 2, "report": "r.html"}
    assert told.err == ""


def test_quiet_keeps_errors_only(screen):
    terminal = Terminal(quiet=True, live=True)
    Watcher(terminal)(Event("stage_kept", 0.0, {"stage": "sft", "artifact": "x"}))
    Watcher(terminal)(progress(5))
    assert screen.getvalue() == ""
    terminal.complain("disk full")
    assert screen.getvalue() == "disk full\n"


def test_hostile_text_in_an_event_is_inert(screen):
    note = {"stage": "sft", "text": "\x1b]0;owned\x07\x1b[2Jrow \u202egnp\r\n"}
    Watcher(Terminal(colour_err=True))(Event("note", 0.0, note))
    shown = screen.getvalue()
    assert "\x1b]0" not in shown and "\x1b[2J" not in shown and "\u202e" not in shown
    assert "␛]0;owned␇" in shown


def test_colour_goes_around_what_was_made_inert(screen):
    Terminal(colour_err=True).say(Paint("\x1b[0mred", "red"))
    assert screen.getvalue() == "\x1b[31m␛[0mred\x1b[0m\n"


def test_gates_and_alerts_say_what_and_what_to_do(screen):
    watch = Watcher(Terminal())
    watch(
        Event(
            "gate", 0.0, {"stage": "dpo", "rule": "chat.exact_match drop_at_most 0.05", "value": 0.08, "passed": False}
        )
    )
    watch(Event("alert", 0.0, {"stage": "sft", "title": "3 % of rows cut.", "cure": "Raise max_tokens.", "step": 0}))
    gate, alert = screen.getvalue().splitlines()
    assert gate.endswith("dpo       gate chat.exact_match drop_at_most 0.05: 0.08  FAILED")
    assert alert.endswith("sft       ! 3 % of rows cut. Raise max_tokens.")


def test_unknown_events_are_passed_over(screen):
    Watcher(Terminal())(Event("from_the_future", 0.0, {}))
    assert screen.getvalue() == ""


def test_figures_show_what_is_known():
    assert figures({}) == ""
    assert figures({"loss": 1.23456, "tokens_per_s": 250.4, "left_s": 3}) == "loss 1.235  250 tok/s  3.0 s left"
    assert (bar(0), bar(1), bar(7)) == ("░" * 20, "█" * 20, "█" * 20)
    assert clock(3599.7) == "1:00:00"


@pytest.fixture
def interruptible():
    """Ctrl-C as a terminal has it: a shell's background jobs begin with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_the_first_signal_asks_and_the_second_quits():
    told: list[str] = []
    with stoppable(told.append) as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        assert stop.signal == signal.SIGINT
        assert "Press Ctrl-C again" in told[0]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_request_to_terminate_is_kept_apart():
    with stoppable(lambda text: None) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(SystemExit) as left:
            signal.raise_signal(signal.SIGTERM)
        assert left.value.code == 143
