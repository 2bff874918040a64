"""Two processes run one recipe on one store at the same time: each artifact is made once, and both come to the end."""

import collections
import os
import signal
from pathlib import Path

import pytest

from posttrain.pipeline.record import read_run
from tests.faults.places import PATIENCE, Place, furnish, steps, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Place:
    furnish(tmp_path)
    return Place(tmp_path)


def test_each_stage_is_made_once(place: Place):
    processes = [place.fork(), place.fork()]
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0], place.log.read_text()

    runs = [path.name for path in sorted(place.runs.iterdir()) if path.name != "store"]
    assert runs == ["demo-1", "demo-2"], "each has a folder of its own"
    events = {run: place.events(run) for run in runs}
    for stage, n in (("sft", 24), ("dpo", 16)):
        told = [step for run in runs for step in steps(events[run], stage)]
        assert told == list(range(1, n + 1)), f"{stage} was trained once, by one of the two"

    both = [[e.fields["artifact"] for e in events[run] if "artifact" in e.fields] for run in runs]
    assert both[0] == both[1]
    assert len(both[0]) == 3 + 4 * 3, "three stages, and four models measured three times"
    records = [read_run(place.runs / run) for run in runs]
    for first, second in zip(*(record.stages for record in records), strict=True):
        assert first.curve == second.curve, "who waited shows how it was made"
    assert all((place.runs / run / "report.html").is_file() for run in runs)

    alone = Place(place.folder, out=Path("alone"))
    alone.finish()
    names = collections.Counter(path.name.rpartition("-")[0] for path in alone.store.glob("*-*"))
    assert names == collections.Counter(path.name.rpartition("-")[0] for path in place.store.glob("*-*"))
    weights = [name for name in alone.contents() if name.endswith((".safetensors", "findings.json"))]
    assert len(weights) == 3 + 4 * 3
    assert all(alone.contents()[name] == place.contents()[name] for name in weights)
    assert not list((place.store / "work").iterdir())
    assert not (place.store / "damaged").exists()


def test_who_waits_goes_on_from_the_checkpoint_of_a_killed_one(place: Place):
    first = place.fork()
    wait_for(lambda: list(place.store.glob("work/*/scratch/checkpoint.pt")), first)
    os.kill(first.pid, signal.SIGSTOP)  # it holds the lock, and gets no further
    second = place.fork()
    wait_for(lambda: "stage_started" in [event.kind for event in place.events("demo-2")], second)
    first.kill()
    second.join(PATIENCE)
    assert second.exitcode == 0, place.log.read_text()
    begun = steps(place.events("demo-2"), "sft")
    assert 1 < begun[0] <= steps(place.events("demo-1"), "sft")[-1] + 1
    assert begun == list(range(begun[0], 25))
    assert not list((place.store / "work").iterdir())
