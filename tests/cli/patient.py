"""A stage that takes its time, so that a test can stop it: a hundred steps, a checkpoint after each."""

import os
import time
from typing import Any, ClassVar

from posttrain.engine.files import replace_text
from posttrain.engine.job import Job
from posttrain.engine.method import Made, Stage
from posttrain.schema.artifacts import Artifact, Model
from posttrain.schema.errors import Stopped


class Patient(Stage):
    """Counts to a hundred."""

    kind: ClassVar[str] = "transform"
    artifact: ClassVar[type[Artifact]] = Model
    pause: float = 0.05
    """Seconds between two steps."""

    def run(self, job: Job, *, model: Model, **inputs: Any) -> Made:
        saved = job.scratch / "step"
        done = int(saved.read_text()) if saved.exists() else 0
        for step in range(done + 1, 101):
            job.emit("progress", step=step, of=100, loss=1 / step, tokens_per_s=1000.0)
            replace_text(saved, str(step))
            if job.stop():
                raise Stopped(
                    f"Stopped after step {step} of 100; a checkpoint is saved. Run the same command to go on."
                )
            time.sleep(self.pause if "IN_A_HURRY" not in os.environ else 0)
        (job.folder / "config.json").write_text("{}")
        (job.folder / "model.safetensors").write_bytes(b"weights")
        job.note(f"began at step {done}")
        return Made()
