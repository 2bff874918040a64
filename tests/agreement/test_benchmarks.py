"""The benchmarks run, and in them all sides do the same work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="TRL is not installed: pip install 'posttrain[bench]'")

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), [("sft", ["padding", "packing", "grouped"]), ("dpo", ["padding"])])
def test_benchmarks_run_and_all_sides_do_the_same_work(name, settings):
    """Losses of every step, held-out loss and token counts: the benchmark checks them itself."""
    script = ROOT / "benchmarks" / f"{name}.py"
    ran = subprocess.run(
        [sys.executable, str(script), "--quick", "--threads", "1", "--settings", *settings],
        capture_output=True, text=True, timeout=570, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "All sides did the same work" in ran.stdout
    for side in ["posttrain", *settings]:
        assert f"| {side} |" in ran.stdout
