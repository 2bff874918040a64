"""Programs that cannot share an environment with this one: run by the Python of theirs, folders in and folders out.

What they are told and what they say is JSON. They compute the model on the same drawn tokens before and after, in their own memory;
what is read back here must compute the same, or what they saved is not what they made.
"""

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.schema.errors import MachineError, PosttrainError, Stopped

from .job import Job

PROGRAMS = Path(__file__).parent / "programs"
RUN = PROGRAMS / "run.py"
TURN = 0.2  # seconds between two looks at whether it has ended, or shall
SAID = 2000  # characters at the end of what it printed, in which its last word is looked for


@dataclass(frozen=True)
class Outside:
    """What a program did. `said` is what it says of itself, `before` and `after` are its logits (N, V) on the drawn tokens."""

    said: Mapping[str, Any]
    before: Tensor
    after: Tensor


def run_outside(program: str, python: str, told: Mapping[str, Any], job: Job) -> Outside:
    """Runs a program, which saves a model to `told["made"]`. Raises MachineError where its Python or its package is not there,
    PosttrainError with its last word where it fails, Stopped where it was asked to stop."""
    paths = {name: job.scratch / f"{program}-{name}" for name in ("told.json", "said.json", "log.txt")}
    arrays = {name: job.scratch / f"{program}-{name}.npy" for name in ("before", "after")}
    paths["said.json"].unlink(missing_ok=True)
    said = json.dumps({**told, **{name: str(path) for name, path in arrays.items()}})
    paths["told.json"].write_text(said, encoding="utf-8")
    # isolated: it must find its own packages, and neither this one nor those beside the script
    command = [python, "-I", *map(str, (RUN, PROGRAMS / f"{program}.py", paths["told.json"], paths["said.json"]))]
    with paths["log.txt"].open("wb") as log:
        code = _ended(_start(command, log, program), job)
    if code or not paths["said.json"].exists():
        raise _failed(program, python, paths["log.txt"], code)
    before, after = (torch.from_numpy(np.load(path)).flatten(0, 1).double() for path in arrays.values())
    return Outside(json.loads(paths["said.json"].read_text(encoding="utf-8")), before, after)


def _start(command: list[str], log: Any, program: str) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    except OSError as error:
        raise MachineError(
            f"There is no Python to run at {command[0]!r} ({error.strerror}). Make an environment of its own, "
            f"`python3 -m venv ENV && ENV/bin/pip install {PACKAGES[program]}`, and write `python: ENV/bin/python`."
        ) from error


def _ended(child: "subprocess.Popen[bytes]", job: Job) -> int:
    """Its exit code. Raises Stopped when asked to stop, once it is gone."""
    try:
        while (code := child.poll()) is None:
            if job.stop():
                raise Stopped("Stopped while another program was at work. The same command begins it again.")
            time.sleep(TURN)
        return code
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


PACKAGES = {"llm_compressor": "llmcompressor", "modelopt": "'nvidia-modelopt[hf]'"}
"""What to install for each."""


def _failed(program: str, python: str, log: Path, code: int) -> PosttrainError:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace")[-SAID:].splitlines()]
    last = next((line for line in reversed(lines) if line), f"exit code {code}")
    if "ModuleNotFoundError" in last:
        return MachineError(
            f"{python} cannot run {program}: {last}. Install what it needs there: `{python} -m pip install "
            f"{PACKAGES[program]}`."
        )
    return PosttrainError(
        f"{program} failed: {last}. All that it printed is in {log}. Change what it is told, or use a method of this package, "
        "such as `gptq`."
    )
