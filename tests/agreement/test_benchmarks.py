"""The benchmarks run, and in them all sides do the same work."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL is not installed: pip install 'posttrain[bench]'")

ROOT = Path(__file__).parent.parent.parent
TRIED = {
    "sft": ["padding", "packing", "grouped"],
    "dpo": ["padding"],
    "kto": ["padding", "precomputed"],
    "orpo": ["padding", "prompts"],
    "reward": ["padding"],
    "grpo": ["padding"],
}


def ran(name: str, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--threads", "1", *options],
        capture_output=True, text=True, timeout=570, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_benchmarks_run_and_all_sides_do_the_same_work(name: str):
    """Losses of every step, held-out loss and token counts: the benchmark checks them itself."""
    done = ran(name, "--settings", *TRIED[name])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All sides did the same work" in done.stdout
    for side in ["posttrain", *TRIED[name]]:
        assert f"| {side} |" in done.stdout


@pytest.mark.slow
def test_answers_may_end_by_themselves():
    """Then as many tokens are drawn as are drawn, and gradients of given answers still agree."""
    done = ran("grpo", "--stops", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same work: gradients of given answers agree" in done.stdout


@pytest.mark.slow
def test_memory_is_measured_of_both_sides():
    done = ran("memory")
    assert done.returncode == 0, done.stderr
    assert "| sft |" in done.stdout
    assert "| dpo |" in done.stdout


def sides(monkeypatch: pytest.MonkeyPatch, **their: Any) -> list[str]:
    """What the referee says of a peer that is unlike posttrain in what is given."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import verdict

    def side(name: str, **told: Any) -> verdict.Side:
        alike = {
            "losses": [2.0, 1.5],
            "answer_tokens": 30,
            "tokens": 50,
            "held_out": 1.4,
            "checked": [0.5, -3.0],
        } | told
        made = verdict.Round(1.0, 1.0, alike["answer_tokens"], alike["tokens"], alike["losses"])
        said = {"computes_in": "float32", "held_out": alike["held_out"], "checked": alike["checked"]}
        return verdict.Side(name, told=said, rounds=[made])

    return list(verdict.faults([side("posttrain"), side("padding", **their)]))


@pytest.mark.parametrize(
    ("their", "said"),
    [
        ({"losses": [2.0, 1.51]}, "losses of the same step"),
        ({"held_out": 1.42}, "held-out loss"),
        ({"answer_tokens": 31}, "31 answer tokens"),
        ({"tokens": 51}, "51 real tokens"),
        ({"checked": [0.5, 3.0]}, "checked before training"),
    ],
)
def test_the_referee_sees_other_work(their: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch):
    assert sides(monkeypatch) == []
    (found,) = sides(monkeypatch, **their)
    assert said in found
