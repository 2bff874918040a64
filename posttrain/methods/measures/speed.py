"""Speed: how quickly a model reads and writes on this machine, and what memory that takes, in its form's own engine.

Made-up prompts of equal length are read (prefill) and continued to full length (decoding), in a process that does nothing else.
The median of several passes is given, with the slowest and the quickest as its bounds. A GGUF file is timed in llama.cpp
where that is installed; integers in any other place are computed with as the numbers that they stand for, and the notes say so.
"""

import statistics
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.engine.timing import timed
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.findings import Findings, Metric


class Speed(Measure):
    """Tokens read and written in a second, and the memory that takes."""

    version: ClassVar[int] = 2

    blind: ClassVar[bool] = True

    prompts: int = Field(8, ge=1)
    """Prompts answered at once; llama.cpp answers one after the other."""
    prompt_tokens: int = Field(128, ge=2)
    """Length of a prompt."""
    new_tokens: int = Field(64, ge=1)
    """Length of an answer."""
    passes: int = Field(3, ge=1)
    """How often it is timed, after one pass to warm up."""

    def measure(self, job: Job, model: Model, **data: tuple[Dataset, ...]) -> Findings:
        found = timed(model, seed=job.seed, **self.model_dump())
        metrics = {
            "read": _rate(self.prompts * self.prompt_tokens, found.reading),
            "write": _rate(self.prompts * self.new_tokens, found.writing),
            "memory": Metric(found.memory, unit="bytes", better="lower"),
        }
        said = {name: getattr(found, name) for name in ("engine", "device", "threads", "at_once")}
        return Findings("speed", "speed", metrics, notes=said)


def _rate(tokens: int, seconds: Sequence[float]) -> Metric:
    rates = sorted(tokens / s for s in seconds)
    return Metric(statistics.median(rates), len(rates), rates[0], rates[-1], unit="tokens/s")
