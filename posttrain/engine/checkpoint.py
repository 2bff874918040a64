"""Checkpoints: all that a killed run needs to go on to the same bytes. One file, replaced in one step.

Batches depend on the step, on what is watched and on what their source remembers, and sampling has its own generators, so
weights, optimizer, step, what is watched and the source's state are all there is. Rollouts are not in it: a step that was
not finished draws them again, from the same weights with the same seed.
"""

import os
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from posttrain.models.policy import Models
from posttrain.schema.errors import Damaged, Stopped

from .job import Job
from .source import Source
from .watch import Watch

NAME = "checkpoint.pt"


class Checkpoints:
    """The checkpoints of one training of `n` steps, `seconds` apart."""

    def __init__(self, job: Job, seconds: float, n: int) -> None:
        self.job, self.seconds, self.n = job, seconds, n
        self._saved = time.monotonic()

    def after(self, step: int, state: "State", sums: dict[str, float]) -> None:
        """Saves when it is time, or when the job is asked to stop, which then raises Stopped."""
        stopping = self.job.stop() and step < self.n
        if stopping or time.monotonic() - self._saved > self.seconds:
            save_checkpoint(self.job.scratch, state, step, sums)
            self._saved = time.monotonic()
        if stopping:
            raise Stopped(
                f"Stopped after step {step} of {self.n}; a checkpoint is saved. Run the same command to go on."
            )


@dataclass
class State:
    """All that changes while a training runs."""

    models: Models
    optimizer: torch.optim.Optimizer
    watch: Watch
    source: Source


def save_checkpoint(scratch: Path, state: State, step: int, sums: dict[str, float]) -> None:
    """Writes beside the old one, then takes its place. `sums` are the metrics of the last step."""
    written = {
        "step": step,
        "sums": sums,
        "weights": {name: p.data for name, p in state.models.trained().items()},
        "optimizer": state.optimizer.state_dict(),
        "watch": state.watch.state_dict(),
        "source": state.source.state_dict(),
    }
    write_whole(scratch / NAME, written)


def load_checkpoint(scratch: Path, state: State) -> tuple[int, dict[str, float]]:
    """The step to go on with and the metrics of the one before; step 0 when there is no checkpoint. Raises Damaged,
    and changes nothing, when the file is no longer what was written."""
    path = scratch / NAME
    if not path.exists():
        return 0, {}
    read = read_whole(path)
    if read is None:
        raise Damaged(f"The checkpoint {path} is damaged: training begins again with its first step.")
    trained = state.models.trained()
    with torch.no_grad():
        for name, value in read["weights"].items():
            trained[name].copy_(value)
    state.optimizer.load_state_dict(read["optimizer"])
    state.watch.load_state_dict(read["watch"])
    state.source.load_state_dict(read["source"])
    return read["step"], read["sums"]


def write_whole(path: Path, state: Any) -> None:
    """Tensors and plain values on the disk, there as a whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read_whole(path: Path) -> Any:
    """What was written there, on the CPU, as an accelerator has no room for it twice; None where there is nothing, or
    it is damaged."""
    return torch.load(path, map_location="cpu", weights_only=True) if _is_whole(path) else None


def _is_whole(path: Path) -> bool:
    """Whether every part has the checksum that it was written with: torch writes them and does not look at them."""
    try:
        with zipfile.ZipFile(path) as parts:
            return parts.testzip() is None
    except Exception:  # which one depends on the place of the damage
        return False
