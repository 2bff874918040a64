"""What a run leaves in its folder, and what is read back from there."""

import json
import shutil
from pathlib import Path

import pipeline_fakes as fakes
import pytest
from pipeline_fakes import ran

from posttrain.pipeline.record import read_run
from posttrain.pipeline.run import run
from posttrain.schema.errors import Diverged, PosttrainError, Stopped
from posttrain.schema.events import Event, parse


def events(folder: Path) -> list[Event]:
    return list(parse((folder / "events.jsonl").read_text()))


def test_a_failure_is_told_and_carried_on(text: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    with pytest.raises(Diverged):
        run(text, ["second.fail=diverge"], out=out)
    last = events(out / "demo-1")[-1]
    assert last.kind == "failed" and last.fields["error"] == "diverged" and last.fields["stage"] == "second"
    record = read_run(out / "demo-1")
    assert [stage.state for stage in record.stages] == ["made", "made", "failed", "not reached"]
    assert len(record.stages[2].curve) == 3
    with pytest.raises(FileExistsError):
        run(text, ["second.fail=crash"], out=out)
    assert events(out / "demo-2")[-1].fields["error"] == "FileExistsError"


def test_a_stop_is_told_and_the_next_run_goes_on(text: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    with pytest.raises(Stopped):
        run(text, out=out, stop=lambda: "write" in fakes.RAN)
    assert events(out / "demo-1")[-1].kind == "stopped"
    ran()
    assert run(text, out=out).name == "demo-1"
    assert ran() == ["tune", "score", "weigh", "compress", "score"]


@pytest.mark.slow
def test_a_different_recipe_gets_the_next_number(text: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    names = [run(text, extra, out=out).name for extra in ([], ["seed=1"], [], ["seed=1"], ["seed=2"])]
    assert names == ["demo-1", "demo-2", "demo-1", "demo-2", "demo-3"]


def test_a_folder_in_use_is_left_alone(text: str, tmp_path: Path) -> None:
    inner: list[str] = []

    def watch(event: Event) -> None:
        if event.kind == "run_started" and not inner:
            inner.append("")
            inner[0] = run(text, out=tmp_path / "runs").name

    assert run(text, out=tmp_path / "runs", on_event=watch).name == "demo-1"
    assert inner == ["demo-2"]


def test_the_stored_recipe_runs_again_as_the_same(text: str, tmp_path: Path) -> None:
    first = run(text, ["tune.strength=6e-4"], out=tmp_path / "runs")
    ran()
    again = run(first.folder / "recipe.yaml", out=tmp_path / "runs")
    assert again.folder == first.folder and ran() == []


def test_a_moved_folder_of_runs_can_be_read(text: str, tmp_path: Path) -> None:
    first = run(text, out=tmp_path / "runs")
    shutil.move(tmp_path / "runs", tmp_path / "elsewhere")
    record = read_run(tmp_path / "elsewhere" / "demo-1")
    assert record.stages == first.record.stages
    assert record.model("tune").findings == first.record.model("tune").findings


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match="is not the folder of a run"):
        read_run(tmp_path)


def test_plan_json_is_plain(text: str, tmp_path: Path) -> None:
    planned = json.loads((run(text, out=tmp_path / "runs").folder / "plan.json").read_text())
    assert planned["base"]["form"] == "dense" and [step["name"] for step in planned["steps"]] == [
        "tune", "write", "second", "compress",
    ]  # fmt: skip


def test_settings_are_recorded_as_they_are_written(text: str, rows: Path, tmp_path: Path) -> None:
    stage = run(text, ["tune.strength=6e-4"], out=tmp_path / "runs").record.stages[0]
    assert stage.settings["data"] == str(rows) and stage.settings["strength"] == 6e-4 and stage.settings["steps"] == 3
    assert (stage.method, stage.kind, stage.source) == ("pipeline_fakes:Tune", "objective", "base")


def test_a_run_that_died_in_the_middle_of_a_line_is_read_and_continued(text: str, tmp_path: Path) -> None:
    first = run(text, out=tmp_path / "runs")
    path = first.folder / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    cut = next(index for index, line in enumerate(lines) if '"stage_finished"' in line and '"second"' in line)
    path.write_text("".join(lines[:cut]) + lines[cut][:30])
    died = read_run(first.folder)
    assert [stage.state for stage in died.stages] == ["made", "made", "not reached", "not reached"]
    assert [model.name for model in died.models] == ["base", "tune"]
    again = run(text, out=tmp_path / "runs").record
    assert [stage.state for stage in again.stages] == ["kept"] * 4
    assert len(again.stages[2].curve) == 3


def test_what_is_gone_from_the_store_is_left_out(text: str, tmp_path: Path) -> None:
    first = run(text, out=tmp_path / "runs")
    shutil.rmtree(first.models["second"].path)
    record = read_run(first.folder)
    assert [model.name for model in record.models] == ["base", "tune", "compress"]
    assert [stage.model for stage in record.stages] == ["tune", None, None, "compress"]
