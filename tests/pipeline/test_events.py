"""The event file: whole lines whatever happens, thinned progress, the time left, and alerts."""

import json
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.pipeline.alerts import LossWatch, of_facts
from posttrain.pipeline.events import Events, left_s
from posttrain.pipeline.record import history
from posttrain.schema.events import Event, parse


class Clock:
    """A clock that goes on by `tick` seconds whenever it is read."""

    def __init__(self, tick: float = 0.0):
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def read(path: Path) -> list[Event]:
    return list(parse(path.read_text()))


def test_every_event_is_a_line_that_is_there_at_once(path: Path) -> None:
    events = Events(path, clock=Clock(1))
    events.emit("note", stage="sft", text="a\nb\u2028c")
    assert [json.loads(line) for line in path.read_text().split("\n")[:-1]] == [
        {"event": "note", "time": 1.0, "stage": "sft", "text": "a\nb\u2028c"}
    ]


def test_a_torn_last_line_is_closed_and_passed_over(path: Path) -> None:
    path.write_text('{"event": "note", "time": 1, "text": "whole"}\n{"event": "note", "ti')
    Events(path).emit("note", text="after")
    assert [event.fields["text"] for event in read(path)] == ["whole", "after"]


def test_numbers_that_json_does_not_have_become_null(path: Path) -> None:
    Events(path).emit("gate", value=math.nan, more=[math.inf, 0.123456789])
    assert json.loads(path.read_text())["value"] is None
    assert json.loads(path.read_text())["more"] == [None, 0.123457]


def test_text_that_utf_8_cannot_hold_is_mended(path: Path) -> None:
    Events(path).emit("note", text="no file \udce4.jsonl")
    assert read(path)[0].fields["text"] == "no file ?.jsonl"


def test_two_points_a_second_are_told_and_every_one_is_written(path: Path) -> None:
    told: list[Event] = []
    events = Events(path, told.append, Clock(0.1))
    emit = events.of("sft")
    for step in range(1, 101):
        emit("progress", step=step, of=100, loss=1.0)
    assert 18 <= len(told) <= 22 and told[-1].fields["step"] == 100
    assert [event.fields["step"] for event in read(path)] == list(range(1, 101))


@pytest.mark.slow
def test_a_long_stage_leaves_a_bounded_curve(path: Path) -> None:
    emit = Events(path, clock=Clock(0.001)).of("sft")
    for step in range(1, 9_001):
        emit("progress", step=step, of=9_000, loss=math.nan if step == 77 else 1.0)
    steps = [event.fields["step"] for event in read(path) if event.kind == "progress"]
    assert len(steps) == 502 and steps[0] == 1 and steps[-1] == 9_000 and 77 in steps
    assert [event.fields["title"] for event in read(path) if event.kind == "alert"] == [
        "the loss of step 77 is not finite"
    ]


def test_the_time_left_waits_for_enough_points() -> None:
    assert left_s(deque([(0.0, 1), (0.1, 2)]), 100) is None
    assert left_s(deque((step / 10, step) for step in range(1, 20)), 100) is None
    assert left_s(deque((step / 10, step) for step in range(1, 21)), 100) == 8.0
    assert left_s(deque([(0.0, 10), (3.0, 20), (6.0, 30)]), 100) == 21.0


def test_the_time_left_starts_anew_after_a_resume(path: Path) -> None:
    told: list[Event] = []
    emit = Events(path, told.append, Clock(1)).of("sft")
    for step in [*range(1, 31), *range(11, 13)]:
        emit("progress", step=step, of=100, loss=1.0)
    assert "left_s" in told[29].fields and "left_s" not in told[30].fields


def titles(losses: Iterator[float] | list[float]) -> list[str]:
    watch = LossWatch()
    return [alert["title"] for step, loss in enumerate(losses, 1) for alert in watch.alerts(step, loss)]


def test_a_rising_loss_is_told_once() -> None:
    noisy = [2 + 0.1 * (-1) ** n for n in range(40)]
    assert titles(noisy) == []
    assert titles([*noisy, 2.9, *noisy]) == []  # one step is no trend
    (title,) = titles([*noisy, *[3.0] * 10])
    assert title.startswith("the loss rose at step 4") and "2" in title
    assert len(titles([*noisy, *[3.0] * 10, *noisy, *noisy, *[3.0] * 10])) == 2


def test_a_falling_loss_is_fine() -> None:
    assert titles([1 / n for n in range(1, 200)]) == []


def test_a_loss_on_answers_of_its_own_may_rise_but_not_end(path: Path) -> None:
    losses = [*(2 + 0.1 * (-1) ** n for n in range(40)), *[3.0] * 10, math.nan]
    for stage, more in (("sft", {}), ("grpo", {"answer_tokens": 9.0})):
        emit = Events(path).of(stage)
        for step, loss in enumerate(losses, 1):
            emit("progress", step=step, of=len(losses), loss=loss, **more)
    told = [
        (event.fields["stage"], event.fields["title"].split(" at ")[0]) for event in read(path) if event.kind == "alert"
    ]
    ends = "the loss of step 51 is not finite"
    assert told == [("sft", "the loss rose"), ("sft", ends), ("grpo", ends)]


def test_rows_that_were_cut_or_left_out_are_told() -> None:
    assert not list(of_facts({"rows": 100, "rows_cut": 5, "rows_dropped": 1}))
    cut, dropped = of_facts({"rows": 100, "rows_cut": 6, "rows_dropped": 2})
    assert "6 of 100 rows were cut" in cut["title"] and "2 of 100 rows were left out" in dropped["title"]


def event(kind: str, time: float, **fields: object) -> Event:
    return Event(kind, time, {"stage": "sft", **fields})


def progress(time: float, step: int, loss: float | None = 1.0) -> Event:
    return event("progress", time, step=step, of=9, loss=loss, lr=0.1)


def test_attempts_that_were_killed_belong_to_the_making_that_follows() -> None:
    made = history(
        [
            event("stage_started", 0),
            *(progress(step, step) for step in (1, 2, 3)),
            event("alert", 3, title="up"),
            event("stage_started", 100),
            progress(101, 3, 0.5),
            progress(102, 4, None),
            event("progress", 103, step=1, of=1, measure="chat"),
            event("stage_finished", 105, seconds=5.0),
        ],
        "sft",
    )
    assert [(point.step, point.loss) for point in made.curve] == [(1, 1.0), (2, 1.0), (3, 0.5)]
    assert made.seconds == 3 + 5 and made.alerts == ["up"]


def test_a_making_begins_anew_after_one_that_was_finished() -> None:
    first = [event("stage_started", 0), progress(1, 1), event("stage_finished", 2, seconds=2.0)]
    again = [event("stage_started", 10), progress(13, 1, 0.1)]
    assert history([*first, *again], "sft").seconds == 3.0
    assert [point.loss for point in history([*first, *again], "sft").curve] == [0.1]
    assert history(first, "dpo").curve == () and history(first, "dpo").seconds == 0


def test_what_was_stopped_before_it_began_took_no_time() -> None:
    stopped = event("stopped", 1e9, why="stopped between two stages")
    assert history([stopped], "sft").seconds == 0
    assert history([stopped, event("stage_started", 1e9 + 50), progress(1e9 + 53, 1)], "sft").seconds == 3
