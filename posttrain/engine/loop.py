"""The one training loop. Online and offline methods differ only in their source, methods only in their objective.

for each step:  draw a batch -> prepare it whole -> for each micro-batch: its share of the loss, backward
                -> clip -> optimizer step -> a look at what is watched -> events, and a checkpoint when one is due
"""

import math
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from posttrain.data.batch import Batch
from posttrain.models.adapters import rate_groups
from posttrain.models.policy import Models, Policy
from posttrain.schema.errors import Damaged, Diverged

from .anchors import Anchors
from .checkpoint import Checkpoints, load_checkpoint
from .job import Job
from .method import Loss
from .optimizer import Kind, make_optimizer
from .portion import Portion
from .source import Source
from .watch import Watch


@dataclass(frozen=True)
class Steps:
    """How the loop steps: what `fit` reads of a stage's settings."""

    n: int
    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    micro_tokens: int = 4096
    checkpoint_seconds: float = 60.0
    optimizer: Kind = "adamw"

    def rate(self, step: int) -> float:
        """Learning rate of `step`: a linear rise over the first `warmup` share, then the schedule down to zero."""
        rise = max(1, round(self.warmup * self.n))
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        gone = (step - rise) / max(1, self.n - rise)
        fall = {"constant": 1.0, "linear": 1 - gone, "cosine": (1 + math.cos(math.pi * gone)) / 2}
        return self.learning_rate * fall[self.schedule]


@dataclass
class Tally:
    """What a step added up: shares of the loss and of the metrics sum over micro-batches."""

    sums: dict[str, float] = field(default_factory=dict)
    tokens: int = 0

    def add(self, **shares: Tensor) -> None:
        for name, share in shares.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(share.detach())


class Clock:
    """Tells how long each lap took."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the lap before."""
        before, self._last = self._last, time.monotonic()
        return self._last - before


def fit(
    models: Models,
    objective: Loss,
    source: Source,
    steps: Steps,
    job: Job,
    watch: Watch | None = None,
    anchors: Anchors | None = None,
) -> dict[str, float]:
    """Trains `models.policy` in place and returns the last step's loss and metrics. `watch` may end it early, and
    `anchors` pull it back to where it began.

    Raises Diverged when a gradient is not finite, and Stopped, after saving a checkpoint, when the job is asked to stop.
    """
    policy, watch = models.policy, watch or Watch()
    optimizer = make_optimizer(
        steps.optimizer, rate_groups(policy.trainable()), steps.learning_rate, steps.weight_decay
    )
    portion, checkpoints, clock = (
        Portion(steps.micro_tokens),
        Checkpoints(job, steps.checkpoint_seconds, steps.n),
        Clock(),
    )
    first, sums = _resume(models, optimizer, watch, steps.n, job)
    for step in range(first, steps.n):
        with torch.no_grad():
            batch = source.draw(step, models)
        tally = portion.within_memory(batch, models, job, partial(step_shares, models, objective, batch))
        if anchors is not None:
            anchors.pull()
        norm = _clip(policy, steps.max_grad_norm, step)
        rate = _set_rate(optimizer, steps.rate(step) * watch.times)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        sums = tally.sums
        _report(job, step + 1, steps.n, rate, tally, norm, clock.lap())
        watch.after(step + 1, steps.n, models, optimizer, job)
        if watch.ended:
            break
        checkpoints.after(step + 1, policy, optimizer, watch, sums)
    return sums


def _resume(
    models: Models, optimizer: torch.optim.Optimizer, watch: Watch, n: int, job: Job
) -> tuple[int, dict[str, float]]:
    """Where to go on, and the metrics of the step before."""
    try:
        first, sums = load_checkpoint(job.scratch, models.policy, optimizer, watch)
    except Damaged as damage:
        job.emit("alert", level="warning", title=str(damage), cure="")
        first, sums = 0, {}
    if first:
        job.note(f"going on after step {first} of {n}")
    else:
        watch.begin(models, optimizer)
    return first, sums


def step_shares(models: Models, objective: Loss, batch: Batch, micro_tokens: int) -> Tally:
    """Leaves the gradient of a whole batch in the parameters, whatever the size of its micro-batches."""
    tally = Tally()
    with torch.no_grad():
        batch = objective.prepare(batch, models)
    total = batch.counts()
    for micro in batch.split(micro_tokens):
        loss, metrics = objective.loss(models, micro, total)
        loss.backward()
        tally.add(loss=loss, **metrics)
        tally.tokens += micro.n_tokens()
    return tally


def _clip(policy: Policy, max_norm: float, step: int) -> float:
    norm = float(torch.nn.utils.clip_grad_norm_(policy.trainable(), max_norm))
    if not math.isfinite(norm):
        raise Diverged(
            f"The gradient of step {step + 1} is not finite. Lower `learning_rate`, or train in `dtype: float32`."
        )
    return norm


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    """Every group learns at its own multiple of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["times"]
    return rate


def _report(job: Job, step: int, n: int, rate: float, tally: Tally, norm: float, seconds: float) -> None:
    job.emit(
        "progress",
        step=step,
        of=n,
        lr=rate,
        tokens=tally.tokens,
        tokens_per_s=round(tally.tokens / max(seconds, 1e-9), 1),
        grad_norm=norm,
        **tally.sums,
    )
