"""A Python program run apart from this one, and how it ended put into words."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import posttrain
from posttrain.schema.errors import MachineError, PosttrainError, Stopped

from .environment import is_out_of_memory

STOPS = (-signal.SIGINT, -signal.SIGTERM)


def run_apart(words: Sequence[str], what: str, smaller: str) -> str:
    """What a program prints, that is told as `what` it does. Raises Stopped where it was asked to stop, MachineError where it
    ran out of memory, ending with what is `smaller`, and else PosttrainError with its last words."""
    above = str(Path(posttrain.__file__).parent.parent)
    paths = os.pathsep.join([above, *filter(None, [os.environ.get("PYTHONPATH")])])
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
    asked = [sys.executable, "-P", *words]
    done = subprocess.run(asked, check=False, capture_output=True, text=True, env={**os.environ, **quiet})
    if done.returncode == 0:
        return done.stdout
    if done.returncode in STOPS:
        raise Stopped(f"Stopped while {what}. Run the same command to do it again.", -done.returncode)
    said = (done.stderr.strip() or f"signal {abs(done.returncode)}").splitlines()[-1]
    if done.returncode < 0 or is_out_of_memory(RuntimeError(said)):
        raise MachineError(f"The machine ran out of memory while {what} ({said}). {smaller}")
    raise PosttrainError(said)
