"""What was damaged on the disk is noticed, told in one line, put aside, and made again to the same bytes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.pipeline.record import read_run
from posttrain.pipeline.run import run
from posttrain.schema.artifacts import MANIFEST
from posttrain.schema.errors import Stopped
from tests.faults.places import Place, steps

pytestmark = pytest.mark.slow


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other(path: Path) -> None:
    path.write_text("[]")


@pytest.fixture(scope="module")
def finished(furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place where the recipe has been run, to be copied."""
    folder = tmp_path_factory.mktemp("finished") / "place"
    shutil.copytree(furnished, folder)
    Place(folder).finish()
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Place:
    return Place(Path(shutil.copytree(finished, tmp_path / "place")))


DAMAGE = [
    ("sft", "model.safetensors", cut, "model.safetensors has"),
    ("sft", "model.safetensors", empty, "model.safetensors has 0 bytes instead of"),
    ("dpo", "model.safetensors", flip, "the bytes of model.safetensors are not those that were written"),
    ("sft", "tokenizer.json", Path.unlink, "tokenizer.json is missing"),
    ("few_shot", "prompt_program.json", flip, "the bytes of prompt_program.json are not"),
    ("dpo", MANIFEST, Path.unlink, "has no readable posttrain.json"),
    ("sft", MANIFEST, cut_in_half, "has no readable posttrain.json"),
    ("sft", MANIFEST, empty, "has no readable posttrain.json"),
    ("few_shot", MANIFEST, other, "has no readable posttrain.json"),
]


@pytest.mark.parametrize(("method", "name", "damage", "told"), DAMAGE)
def test_a_damaged_model_is_made_again(
    method: str, name: str, damage: Callable[[Path], None], told: str, place: Place, command
):
    before, artifact = place.contents(), place.made(method)
    damage(artifact / name)
    done = command(place)
    assert done.code == 0, done.err
    assert place.contents() == before
    (aside,) = (place.store / "damaged").iterdir()
    assert aside.name == f"{artifact.name}.0"
    (line,) = (line for line in done.err.splitlines() if told in line)
    assert line.endswith(f"It was moved to {aside} and is made again.")
    finished = [event.fields["stage"] for event in place.events() if event.kind == "stage_finished"]
    assert finished == ["sft", "dpo", "few_shot", method], "nothing else is made again"


def test_a_damaged_measurement_is_made_again(place: Place, command):
    before = place.contents()
    for evidence in place.store.glob("benchmark-*"):
        flip(evidence / "findings.json")
    done = command(place)
    assert done.code == 0, done.err
    assert place.contents() == before
    assert done.err.count("and is made again") == 4


def test_damage_is_told_in_the_report(place: Place, command):
    cut(place.made("sft") / "model.safetensors")
    command(place)
    assert "is damaged: model.safetensors" in (place.runs / "demo-1" / "report.md").read_text(encoding="utf-8")


def test_a_plan_says_what_damage_will_cost(place: Place, command):
    cut(place.made("sft") / "model.safetensors")
    done = command(place, "plan", "r.yaml")
    states = [line.split("-> dense ")[1].split()[0] for line in done.out.splitlines() if "-> dense" in line]
    assert states == ["made", "made", "kept"], "nobody knows yet that sft will be what it was"


@pytest.mark.parametrize("torn", [b'{"event": "progress", "ti', '{"event": "note", "text": "红'.encode()[:-1]])
def test_a_torn_last_event_costs_that_event(torn: bytes, place: Place, command):
    before = place.events()
    with (place.runs / "demo-1" / "events.jsonl").open("ab") as file:
        file.write(torn)
    done = command(place)
    assert done.code == 0, done.err
    after = place.events()
    assert after[: len(before)] == before
    assert (after[len(before)].kind, after[-1].kind) == ("run_started", "run_finished")
    curve = read_run(place.runs / "demo-1").stages[0].curve
    assert [point.step for point in curve] == list(range(1, 25))


@pytest.mark.parametrize("damage", [cut_in_half, flip])
def test_a_torn_checkpoint_costs_the_steps_before_it(
    damage: Callable[[Path], None], finished: Path, furnished: Path, tmp_path: Path, command, monkeypatch
):
    place = Place(Path(shutil.copytree(furnished, tmp_path / "place")))
    monkeypatch.chdir(place.folder)
    with pytest.raises(Stopped, match="a checkpoint is saved"):
        run("r.yaml", out=place.out, stop=lambda: len(steps(place.events(), "sft")) >= 9)
    (checkpoint,) = place.store.glob("work/*/scratch/checkpoint.pt")
    damage(checkpoint)
    done = command(place, "run", "r.yaml", "--until", "sft")
    assert done.code == 0, done.err
    assert f"The checkpoint {checkpoint} is damaged: training begins again with its first step." in done.err
    assert steps(place.events(), "sft") == [*range(1, 10), *range(1, 25)]
    assert place.contents().items() <= Place(finished).contents().items()


def test_a_whole_checkpoint_is_gone_on_from(furnished: Path, tmp_path: Path, command, monkeypatch):
    place = Place(Path(shutil.copytree(furnished, tmp_path / "place")))
    monkeypatch.chdir(place.folder)
    with pytest.raises(Stopped):
        run("r.yaml", out=place.out, stop=lambda: len(steps(place.events(), "sft")) >= 9)
    done = command(place, "run", "r.yaml", "--until", "sft")
    assert "going on after step 9 of 24" in done.err
    assert steps(place.events(), "sft") == list(range(1, 25))
