"""GPTQ beside llm-compressor's, where it is installed in a Python of its own: the same numbers, and files that we read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PYTHON = os.environ.get("LLMCOMPRESSOR_PYTHON")


def ran(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gptq.py"), "--quick", "--folder", str(folder), *options],
        capture_output=True, text=True, timeout=570, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="LLMCOMPRESSOR_PYTHON names no Python that has llm-compressor")
def test_errors_and_divergence_are_those_of_llm_compressor(tmp_path: Path):
    """On one model and the same ids; its checkpoint is read by our loader."""
    done = ran(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for goal in ("error, times llm-compressor's", "error, times that of rounding to nearest", "KL, times"):
        assert f"reached: {goal}" in done.stdout


def test_a_peer_that_is_missing_is_told_with_a_cure(tmp_path: Path):
    done = ran(tmp_path, "--llmcompressor", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "nowhere' does not run llmcompressor" in done.stderr
    assert "pip install torch==2.13.0 llmcompressor==0.14.0.1" in done.stderr
    assert "LLMCOMPRESSOR_PYTHON=FOLDER/bin/python" in done.stderr
