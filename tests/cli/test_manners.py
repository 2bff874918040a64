"""How the command line behaves, seen from outside: streams, exit codes, speed, help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.cli import main

NOT_FOR_HELP = ("torch", "transformers", "pydantic", "numpy", "yaml", "jinja2")


def posttrain(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "posttrain", *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env={**os.environ, "NO_COLOR": "1", **environment},
    )


@pytest.mark.parametrize("words", [[], ["help"], ["-h"], ["--help"]])
def test_help_is_an_answer(words: list[str]):
    done = posttrain(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "posttrain run [RECIPE]" in done.stdout
    assert "sft" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("words", [[], ["--help"], ["methods"], ["recipes"], ["run", "--help"], ["show", "-h"]])
def test_help_imports_nothing_heavy(words: list[str]):
    code = (
        "import sys; from posttrain.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit as left: assert not left.code\n"
        f"heavy = [name for name in {NOT_FOR_HELP!r} if name in sys.modules]\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_is_there_at_once():
    """Under 0.3 s of processor time: what a machine with something else to do cannot spoil."""
    spent = []
    for _ in range(3):
        before = os.times()
        posttrain("--help")
        after = os.times()
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(spent) < 0.3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "There is no command 'rnu'. Did you mean 'run'?"),
        (["quickstart.yaml"], "posttrain run quickstart.yaml"),
        (["run", "a", "b"], "One recipe at a time, not a and b."),
        (["run", "nothing.yaml"], "There is no recipe 'nothing.yaml'."),
        (["run", "--untl", "sft"], "Did you mean '--until'?"),
        (["compare", "base"], "the following arguments are required: B."),
        (["methods", "dop"], "There is no method 'dop'. Did you mean 'dpo'?"),
        (["new", "quickstrat"], "Did you mean 'quickstart'?"),
        (["measure", "lab"], "Name a model and a measure"),
        (["measure", "lab", "sise"], "There is no measure 'sise'. Did you mean 'size'?"),
        (["measure", "lab", "size", "speed", "limit=3"], "size.limit=3"),
        (["sft", "lab"], "Write settings as `name=value`"),
        (["show", "nothing"], "There is no run, model or artifact 'nothing'"),
        (["report", "-o", "report.pdf"], "'.pdf'"),
        (["report"], "There is no run in runs yet. Make one with `posttrain run`"),
    ],
)
def test_a_mistake_is_one_line_with_its_cure(words: list[str], message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err
    assert told.err.startswith("error  ")
    assert told.err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_errors_are_json_when_asked_for(tmp_path: Path):
    done = posttrain("methods", "dop", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout)["error"] == {
        "kind": "usage",
        "message": "There is no method 'dop'. Did you mean 'dpo'?",
        "cure": "Did you mean 'dpo'?",
    }


@pytest.mark.slow
def test_a_method_shows_every_setting():
    told = posttrain("methods", "sft")
    assert told.returncode == 0
    for words in ("learning_rate", "required", "default", "posttrain sft model=lab data=…"):
        assert words in told.stdout
    as_json = json.loads(posttrain("methods", "sft", "--json").stdout)
    assert as_json["kind"] == "objective"
    assert all(setting["help"] for setting in as_json["settings"])
    assert [setting["name"] for setting in as_json["settings"] if setting["required"]] == ["data"]
    assert "adapter.lora.rank" in [setting["name"] for setting in as_json["settings"]]
    assert posttrain("sft", "--help").stdout == told.stdout


def test_lists_are_json_too():
    methods = json.loads(posttrain("methods", "--json").stdout)["methods"]
    assert {"sft", "benchmark", "merge", "sample"} <= {method["name"] for method in methods}
    recipes = json.loads(posttrain("recipes", "--json").stdout)["recipes"]
    assert "quickstart" in {recipe["name"] for recipe in recipes}
    assert all(recipe["summary"] for recipe in recipes)


@pytest.mark.slow
def test_attacks_are_listed_and_show_every_setting():
    listed = json.loads(posttrain("methods", "--json").stdout)["attacks"]
    assert {"direct", "persona", "gcg"} <= {attack["name"] for attack in listed}
    assert all(attack["kind"] == "attack" and attack["summary"].endswith(".") for attack in listed)
    assert "prompt_extraction" in posttrain("--help").stdout
    told = posttrain("methods", "glossary").stdout
    for words in ("arXiv 2402.10601", "required", "default", "attacks: [{glossary: {words: …}}]"):
        assert words in told
    as_json = json.loads(posttrain("methods", "evolve", "--json").stdout)
    assert as_json["kind"] == "attack"
    assert all(setting["help"] for setting in as_json["settings"])
    assert "Did you mean 'persona'?" in posttrain("methods", "persna").stderr


def test_a_recipe_is_copied_but_never_over_another(tmp_path: Path):
    done = posttrain("new", cwd=tmp_path)
    assert done.stdout == "quickstart.yaml\n"
    assert "posttrain run quickstart.yaml" in done.stderr
    again = posttrain("new", cwd=tmp_path)
    assert again.returncode == 2
    assert "quickstart.yaml exists already" in again.stderr


def test_control_characters_never_reach_the_terminal(tmp_path: Path):
    done = posttrain("run", "\x1b[31mred\x07\u202e.yaml", cwd=tmp_path)
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr


def test_a_terminal_without_unicode_gets_ascii(tmp_path: Path):
    done = posttrain("--help", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "..." in done.stdout


def test_a_reader_that_leaves_is_no_error():
    """As in `posttrain methods | head -1`."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; time.sleep(0.3); from posttrain.cli import main; raise SystemExit(main(['methods']))",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 141
    assert told == b""


def test_colour_is_for_those_who_want_it(tmp_path: Path):
    assert "\x1b[1m" in posttrain("--help", NO_COLOR="", FORCE_COLOR="1").stdout
    assert "\x1b" not in posttrain("--help", NO_COLOR="1", FORCE_COLOR="1").stdout


def test_an_unforeseen_error_leaves_its_traceback_in_a_file(tmp_path: Path):
    code = (
        "import posttrain.cli.learning as l; from posttrain.cli import main\n"
        "def broken(words, terminal): raise ZeroDivisionError('by zero')\n"
        "l.recipes = broken\nraise SystemExit(main(['recipes']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ZeroDivisionError: by zero" in done.stderr
    (log,) = tmp_path.glob("posttrain-*.log")
    assert str(log) in done.stderr
    assert "in broken" in log.read_text()


def test_the_version_is_an_answer():
    assert posttrain("--version").stdout.startswith("posttrain 0.")


@pytest.mark.slow
def test_env_says_what_an_issue_needs():
    found = json.loads(posttrain("env", "--json").stdout)
    assert {"python", "torch", "transformers", "cores", "memory", "free disk", "accelerator"} <= set(found)
