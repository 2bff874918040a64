"""Speed: how quickly a model reads and writes on this machine.

Made-up prompts of equal length are read (prefill) and continued to full length (decoding). The median of several
passes is given, with the slowest and the quickest as its bounds.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field

from posttrain.data.batch import Batch
from posttrain.engine.job import Job
from posttrain.engine.method import Measure
from posttrain.functional.layout import Branch, Tree
from posttrain.models.load import load_policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.models.vocabulary import n_rows
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.findings import Findings, Metric


class Speed(Measure):
    """Tokens read and written in a second."""

    blind: ClassVar[bool] = True

    prompts: int = Field(8, ge=1)
    """Prompts answered at once."""
    prompt_tokens: int = Field(128, ge=2)
    """Length of a prompt."""
    new_tokens: int = Field(64, ge=1)
    """Length of an answer."""
    passes: int = Field(3, ge=1)
    """How often it is timed, after one pass to warm up."""

    def measure(self, job: Job, model: Model, **data: tuple[Dataset, ...]) -> Findings:
        policy = load_policy(model)
        sampler = TransformersSampler(policy, frozenset())
        draw = torch.Generator().manual_seed(job.seed)
        words = n_rows(policy.model)
        prompts = torch.randint(words, (self.prompts, self.prompt_tokens), generator=draw).tolist()
        trees = tuple(Tree(tuple(p[:-1]), (Branch(tuple(p[-1:]), (True,)),)) for p in prompts)
        reading = self._seconds(lambda: policy.score(Batch(trees)))
        writing = self._seconds(lambda: sampler.sample(prompts, Sampling(max_new_tokens=self.new_tokens)))
        metrics = {
            "read": _rate(self.prompts * self.prompt_tokens, reading),
            "write": _rate(self.prompts * self.new_tokens, writing),
        }
        return Findings("speed", "speed", metrics, notes={"threads": torch.get_num_threads()})

    def _seconds(self, work: Callable[[], object]) -> list[float]:
        work()
        seconds = []
        for _ in range(self.passes):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return seconds


def _rate(tokens: int, seconds: Sequence[float]) -> Metric:
    rates = sorted(tokens / s for s in seconds)
    return Metric(statistics.median(rates), len(rates), rates[0], rates[-1], unit="tokens/s")
