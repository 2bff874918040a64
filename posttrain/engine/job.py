"""The job: the one seam between a method and the machine it runs on. Folder, seed, events, the wish to stop."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.schema.errors import Stopped


def _silent(kind: str, **fields: Any) -> None:
    return None


def _never() -> bool:
    return False


@dataclass
class Job:
    """What a stage may touch. `folder` becomes the artifact; `scratch` holds checkpoints, survives a kill, and is
    handed to the next attempt at the same work; `shared`, where there is one, outlives the work and is for any other."""

    folder: Path
    scratch: Path
    seed: int = 0
    emit: Callable[..., None] = field(default=_silent)
    stop: Callable[[], bool] = field(default=_never)
    shared: Path | None = None

    def note(self, text: str) -> None:
        """A line for whoever watches."""
        self.emit("note", text=text)

    def check(self) -> None:
        """Raises Stopped when asked to stop, where all that is done is on the disk."""
        if self.stop():
            raise Stopped("Stopped. Run the same command to go on behind what is done.")

    def answered(self, done: int, of: int) -> None:
        """How many prompts have their answer. Raises Stopped when asked to stop: answers are not worth a checkpoint."""
        self.emit("progress", step=done, of=of)
        if done < of and self.stop():
            raise Stopped(f"Stopped after {done} of {of} answers. Run the same command to go on: they are given again.")
