"""A run that is killed again and again ends with the bytes of one that is left alone."""

import itertools
import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.places import ONLINE, STAND_INS, Place, ended, furnish, server, steps, wait_for

pytestmark = pytest.mark.slow

FEW = "{path: lab:%s, take: 6}"
QUICKSTART = (
    "run", "quickstart", "name=demo",
    f"measure.chat.data={FEW % 'chat/test'}", "measure.chat.max_new_tokens=4",
    f"measure.style.data={FEW % 'style/test'}", "measure.style.max_new_tokens=4",
    f"measure.word_map.data={FEW % 'word_map/test'}", f"measure.pairs.data={FEW % 'pairs/test'}",
    "sft.data={path: lab:chat/train, take: 64}", "sft.steps=6", "sft.batch_size=4", "sft.checkpoint_seconds=0",
    "dpo.data={path: lab:pairs/train, take: 64}", "dpo.steps=4", "dpo.batch_size=4", "dpo.checkpoint_seconds=0",
    "sft.gate={chat.exact_match: {at_least: 0}}", "dpo.gate={chat.exact_match: {drop_at_most: 1}}",
)  # fmt: skip
RECIPES = {"tiny": (("run", "r.yaml"), 24), "quickstart": (QUICKSTART, 8), "online": (("run", "online.yaml"), 16)}


@pytest.mark.parametrize("name", RECIPES)
def test_kills_at_any_moment_change_no_byte(name: str, tmp_path: Path):
    words, n_kills = RECIPES[name]
    furnish(tmp_path)
    (tmp_path / "online.yaml").write_text(ONLINE, encoding="utf-8")
    clean = Place(tmp_path, words, Path("clean"))
    clean.finish()
    seconds = clean.events()[-1].fields["seconds"]
    draw, n, doing, went_on = random.Random(0), 0, set(), 0
    for walk in itertools.count():
        place = Place(tmp_path, words, Path(f"killed-{walk}"))
        while killed(place, draw.uniform(0, 0.4 * seconds) if n < n_kills else None):
            n += 1
            doing.add(what_was_done(place))
        check_whole(place, clean)
        went_on += sum(step > 1 for stage in ("sft", "dpo", "ppo", "grpo") for step in firsts(place, stage))
        if n >= n_kills:
            break
    assert len(doing) >= 3, f"the kills came too close together: {doing}"
    assert went_on > 0, "no stage went on from a checkpoint"


def killed(place: Place, after: float | None) -> bool:
    """Runs the command and kills it after some seconds. False when it came to its end before."""
    process = place.fork()
    process.join(after)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), place.log.read_text()
    return process.exitcode != 0


def what_was_done(place: Place) -> str:
    events = place.events()
    return " ".join(str(events[-1].fields.get(k, "")) for k in ("stage", "model", "measure")) if events else "loading"


def firsts(place: Place, stage: str) -> list[int]:
    """The first step of every attempt at a stage that came so far."""
    found, begun = [], False
    for event in place.events():
        if event.kind == "stage_started":
            begun = event.fields["stage"] == stage
        elif event.kind == "progress" and begun and event.fields["stage"] == stage:
            found.append(event.fields["step"])
            begun = False
    return found


def check_whole(place: Place, clean: Place) -> None:
    """What a run left is what a clean one left, and nothing else."""
    assert place.contents() == clean.contents()
    assert not list((place.store / "work").iterdir())
    assert not (place.store / "damaged").exists()
    (run,) = (path for path in place.runs.iterdir() if path.name != "store")
    left = {path.name for path in run.iterdir()}
    assert left == {".lock", "recipe.yaml", "plan.json", "events.jsonl", "report.html", "report.md"}
    assert place.events()[-1].kind == "run_finished"
    lines = (run / "events.jsonl").read_text(encoding="utf-8").split("\n")
    assert all(json.loads(line) for line in lines[-2:-1])


WITHOUT_END = 10**9


def test_a_kill_at_any_file_operation_changes_no_byte(tmp_path: Path):
    """With methods that only hash, so that what is left is the store, the folder of the run and its events."""
    furnish(tmp_path)
    (tmp_path / "r.yaml").write_text(STAND_INS, encoding="utf-8")
    clean, left = Place(tmp_path, out=Path("clean")), server.RawValue("i", WITHOUT_END)
    clean.finish(left)
    n = WITHOUT_END - left.value
    assert n > 200
    for at in (*range(1, 40, 3), *range(40, n - 30, 40), *range(n - 30, n, 3)):  # close where runs begin and end
        place = Place(tmp_path, out=Path(f"killed-{at}"))
        left.value = at
        process = place.fork(left)
        process.join()
        assert process.exitcode == -signal.SIGKILL, place.log.read_text()
        place.finish()
        check_whole(place, clean)


def test_kills_while_loading_leave_nothing_behind(tmp_path: Path):
    furnish(tmp_path)
    place, clean = Place(tmp_path), Place(tmp_path, out=Path("clean"))
    for seconds in (0.1, 0.5, 1.0, 2.0, 3.0):
        process = place.start()
        time.sleep(seconds)
        process.kill()
        assert ended(process).code == -signal.SIGKILL
    place.finish()
    clean.finish()
    check_whole(place, clean)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_is_asked_to_stop_saves_first(number: signal.Signals, code: int, tmp_path: Path):
    furnish(tmp_path)
    words = ("run", "r.yaml", "sft.steps=80", "sft.checkpoint_seconds=1000", "--until", "sft")
    place, clean = Place(tmp_path, words), Place(tmp_path, words, Path("clean"))
    process = place.start()
    wait_for(lambda: len(steps(place.events(), "sft")) > 3, process)
    process.send_signal(number)
    done = ended(process)
    assert done.code == code, done.err
    (checkpoint,) = place.store.glob("work/*/scratch/checkpoint.pt")
    assert checkpoint.stat().st_size > 0
    last = steps(place.events(), "sft")[-1]
    assert (
        f"stopped  Stopped after step {last} of 80; a checkpoint is saved. Run the same command to go on." in done.err
    )
    assert place.events()[-1].kind == "stopped"

    place.finish()
    assert steps(place.events(), "sft") == list(range(1, 81)), "every step was made once"
    clean.finish()
    check_whole(place, clean)
