"""Whole runs from the command line, with stand-in methods that only hash: streams, exit codes, stopping, showing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from posttrain.cli import main

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-m", "posttrain"]
ENVIRONMENT = {
    **os.environ,
    "NO_COLOR": "1",
    "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "pipeline"), str(HERE.parent.parent)]),
}

SCORED = 'measure=[{"pipeline_fakes:Score": {data: test.jsonl}}]'
RECIPE = """\
name: try
model: ./base
measure:
  - pipeline_fakes:Score: {data: test.jsonl}
stages:
  - pipeline_fakes:Tune: {name: tune, data: rows.jsonl, steps: 30}
  - pipeline_fakes:Tune: {name: again, data: rows.jsonl, strength: 0.2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model of hashes, rows and a recipe."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"weights of the base")
    for name, numbers in (("rows.jsonl", range(6)), ("test.jsonl", range(10, 13))):
        (tmp_path / name).write_text(
            "".join(f'{{"prompt": "What is {n}+{n}?", "answer": "{2 * n}"}}\n' for n in numbers)
        )
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


class Done(NamedTuple):
    """What a command left on its streams, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def posttrain(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a command in this process, where torch is imported already, from inside `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NO_COLOR", "1")
    for path in (HERE, HERE.parent / "pipeline"):
        monkeypatch.syspath_prepend(path)

    def call(*words: str) -> Done:
        code = main(words)
        return Done(code, *capsys.readouterr())

    return call


def test_a_run_answers_with_its_table_and_names_the_next_command(posttrain, folder):
    done = posttrain("run", "r.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["score.accuracy"]
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == ["base", "tune", "again"]
    *_, report, following = done.stderr.splitlines()
    assert report == "Report  runs/try-1/report.html"
    assert (folder / "runs" / "try-1" / "report.html").is_file()
    assert following.startswith("Next  posttrain compare base again")

    again = posttrain("run", "r.yaml")
    assert "made" not in again.stderr
    assert again.stderr.count("kept") == 2
    assert again.stdout == done.stdout


def test_only_what_a_change_reaches_is_made_again(posttrain):
    posttrain("run", "r.yaml")
    done = posttrain("plan", "r.yaml", "again.strength=0.3")
    assert done.returncode == 0, done.stderr
    states = [line.split("-> dense ")[1].split()[0] for line in done.stdout.splitlines() if "-> dense" in line]
    assert states == ["kept", "made"]
    assert "again.strength 0.2 -> 0.3" in done.stdout
    assert done.stderr == "Next  posttrain run r.yaml again.strength=0.3\n"


def test_a_run_begins_with_what_was_changed(posttrain):
    done = posttrain("run", "r.yaml", "tune.strength=0.5", "--until", "base")
    assert "change    tune.strength default -> 0.5" in done.stderr


def test_plan_writes_nothing(posttrain, folder):
    before = sorted(folder.rglob("*"))
    assert posttrain("plan", "r.yaml").returncode == 0
    assert [path for path in sorted(folder.rglob("*")) if path not in before] == []


def test_the_events_of_a_run_are_its_json(posttrain):
    done = posttrain("run", "r.yaml", "--json", "-q")
    assert done.returncode == 0
    assert done.stderr == ""
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("run_started", "run_finished")
    assert {"stage_started", "progress", "stage_finished", "measured"} <= {event["event"] for event in events}


def test_all_mistakes_are_told_at_once_and_nothing_is_started(posttrain, folder):
    (folder / "r.yaml").write_text(RECIPE.replace("steps: 30", "stps: 30").replace("strength: 0.2", "strength: -1"))
    done = posttrain("run", "r.yaml", "nothing.here=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "error  3 problems; nothing was started"
    assert "r.yaml:6: tune: there is no option 'stps'. Did you mean 'steps'?" in done.stderr
    assert "r.yaml:7: again: strength: -1 does not fit" in done.stderr
    assert not (folder / "runs").exists()
    told = json.loads(posttrain("run", "r.yaml", "--json").stdout)["error"]
    assert told["kind"] == "recipe"
    assert [problem["line"] for problem in told["problems"]] == [6, 7]


@pytest.mark.parametrize(
    ("override", "code", "told"),
    [
        ("tune.fail=diverge", 1, "error  The loss is not finite at step 3. Lower `strength`."),
        ("tune.fail=memory", 4, "error  'tune' ran out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.)."),
        ("tune.fail=crash", 1, "Something unforeseen happened"),
        ("tune.gate={score.accuracy: {at_least: 2}}", 3, "score.accuracy at_least 2 does not hold"),
        ("model=./nothing", 2, "no folder './nothing'"),
        ("tune.data=rows.json", 2, "Did you mean 'rows.jsonl'?"),
    ],
)
def test_the_exit_code_says_what_happened(posttrain, override, code, told):
    done = posttrain("run", "r.yaml", override)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failed_gate_shows_what_there_is(posttrain):
    done = posttrain("run", "r.yaml", "tune.gate={score.accuracy: {at_least: 2}}")
    assert "tune" in done.stdout
    assert "again" not in [line.split()[0] for line in done.stdout.splitlines() if line]
    assert done.stderr.splitlines()[-1].startswith("error  A gate failed: after tune")


def test_until_ends_early_and_the_same_run_goes_on(posttrain):
    first = posttrain("run", "r.yaml", "--until", "tune")
    assert "again" not in first.stderr.replace("run it again", "")
    second = posttrain("run", "r.yaml")
    assert "tune      kept" in second.stderr
    assert "again     made" in second.stderr
    assert "try-1" in second.stderr


def test_a_method_is_a_recipe_of_one_stage(posttrain):
    words = ("pipeline_fakes:Tune", "model=./base", "data=rows.jsonl", "steps=4", "strength=2e-1", SCORED)
    done = posttrain(*words)
    assert done.returncode == 0, done.stderr
    assert "tune-1" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:3]] == ["base", "tune"]
    again = posttrain(*words)
    assert "tune      kept" in again.stderr
    wrong = posttrain("pipeline_fakes:Tune", "model=./base", "data=rows.jsonl", "stps=4")
    assert wrong.returncode == 2
    assert "Did you mean 'steps'?" in wrong.stderr


def test_a_model_is_measured_without_a_recipe(posttrain):
    done = posttrain("measure", "./base", "pipeline_fakes:Score", "data=test.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["score.accuracy"]


def test_what_was_made_is_shown_compared_and_reported(posttrain, folder):
    posttrain("run", "r.yaml")
    shown = posttrain("show")
    assert "tune" in shown.stdout and "made" in shown.stdout
    as_json = json.loads(posttrain("show", "try-1", "--json").stdout)
    assert [model["name"] for model in as_json["models"]] == ["base", "tune", "again"]
    digest = as_json["models"][1]["digest"]
    for name in ("tune", "try-1/tune", "try/tune", digest[:8]):
        model = posttrain("show", name)
        assert digest in model.stdout, model.stderr
        assert "score.accuracy" in model.stdout
    artifact = posttrain("show", f"runs/store/{Path(as_json['models'][1]['path']).name}")
    assert "strength" in artifact.stdout and "model.safetensors" in artifact.stdout

    compared = posttrain("compare", "base", "try-1/tune")
    assert "score.accuracy" in compared.stdout
    changes = json.loads(posttrain("compare", "base", "tune", "--json").stdout)["changes"]
    assert changes[0]["name"] == "score.accuracy"
    assert "Did you mean 'tune'?" in posttrain("compare", "base", "tnue").stderr

    assert posttrain("report").stdout.startswith("# Report of `try-1`")
    assert posttrain("report", "try", "-o", "page.html").stdout == "page.html\n"
    assert "<html" in (folder / "page.html").read_text()
    assert json.loads(posttrain("report", "--json").stdout)["name"] == "try-1"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_goes_on(folder, number, code):
    words = [*COMMAND, "patient:Patient", "model=./base", SCORED]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=ENVIRONMENT
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "step " in line:
            break
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "Stopping after this step" in told
    assert "stopped  Stopped after step" in told

    again = subprocess.run(
        words,
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        env={**ENVIRONMENT, "IN_A_HURRY": "1"},
    )
    assert again.returncode == 0, again.stderr
    begun = int(again.stderr.split("began at step ")[1].split()[0])
    assert begun > 0


@pytest.mark.slow
def test_a_killed_run_is_gone_on_with(folder):
    words = [*COMMAND, "patient:Patient", "model=./base", SCORED]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=ENVIRONMENT
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "step " in line:
            break
    process.kill()
    process.communicate(timeout=60)
    again = subprocess.run(
        words,
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        env={**ENVIRONMENT, "IN_A_HURRY": "1"},
    )
    assert again.returncode == 0, again.stderr
    assert int(again.stderr.split("began at step ")[1].split()[0]) > 0
