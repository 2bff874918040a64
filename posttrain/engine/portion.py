"""How much of a batch is computed at once. A step that runs out of memory is begun again with half of it.

A micro-batch gives its share of the gradient, whatever its size: the shares of smaller ones sum to the same, so a run
that had to halve learns what it would have learnt with the small ones from its start.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from posttrain.data.batch import Batch
from posttrain.models.policy import Models, Policy
from posttrain.schema.errors import MachineError

from .environment import is_out_of_memory
from .job import Job

T = TypeVar("T")


@dataclass
class Portion:
    """`tokens` computed at once, as few as the steps so far asked for."""

    tokens: int

    def within_memory(self, batch: Batch, models: Models, job: Job, work: Callable[[int], T]) -> T:
        """What `work` returns when given a number of tokens that fits; it must leave gradients alone but for adding to
        them, as what a try that failed has left is dropped. Raises MachineError when one tree alone is too much."""
        while True:
            try:
                return work(self.tokens)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error).partition("\n")[0]
            self._halve(batch, models, job, said)  # here, as the error held on to what it could not finish

    def _halve(self, batch: Batch, models: Models, job: Job, said: str) -> None:
        for parameter in models.trained().values():
            parameter.grad = None
        longest = max(tree.n_tokens() for tree in batch.trees)
        largest = max(micro.n_tokens() for micro in batch.split(self.tokens))
        if largest <= longest:
            raise MachineError(
                f"Out of memory with one row of {longest} tokens at once, the least there is ({said}). Lower "
                "`max_length`, set `gradient_checkpointing: true`, or train an adapter, as `adapter: lora`."
            )
        self.tokens = max(longest, largest // 2)
        for policy in (models.policy, models.reference, models.critic, models.teacher):
            if isinstance(policy, Policy):
                policy.micro_tokens = min(policy.micro_tokens, self.tokens)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        job.emit(
            "alert",
            level="warning",
            title=f"Out of memory with {largest} tokens at once: the step is begun again with {self.tokens}. The result "
            "is the same.",
            cure=f"Write `micro_tokens: {self.tokens}`, so that no step is begun twice.",
        )
