"""The one training loop. Online and offline methods differ only in their source, methods only in their objective.

for each step:  draw a batch -> prepare it whole -> for each part of it, which is the whole but for objectives that
                learn from their rollouts several times:
                    for each micro-batch: its share of the loss, backward -> clip -> optimizer step
                -> events -> a look at what is watched -> a checkpoint when one is due
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from posttrain.data.batch import Batch
from posttrain.functional.seeds import seed_of
from posttrain.models.adapters import rate_groups
from posttrain.models.policy import Models
from posttrain.schema.errors import Damaged, Diverged

from .anchors import Anchors
from .checkpoint import Checkpoints, State, load_checkpoint
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
    passes: int = 1
    minibatches: int = 1

    @property
    def n_updates(self) -> int:
        """Optimizer steps for each batch that is drawn."""
        return self.passes * self.minibatches

    def rate(self, step: int) -> float:
        """Learning rate of `step`: a linear rise over the first `warmup` share, then the schedule down to zero."""
        rise = max(1, round(self.warmup * self.n))
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        gone = (step - rise) / max(1, self.n - rise)
        fall = {"constant": 1.0, "linear": 1 - gone, "cosine": (1 + math.cos(math.pi * gone)) / 2}
        return self.learning_rate * fall[self.schedule]


@dataclass
class Shares:
    """What an update added up: shares of the loss and of the metrics sum over micro-batches."""

    sums: dict[str, float] = field(default_factory=dict)
    tokens: int = 0

    def add(self, **shares: Tensor) -> None:
        for name, share in shares.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(share.detach())


class Beside(Protocol):
    """Something else that is learnt in every update."""

    def learn(self, models: Models, update: int, micro_tokens: int) -> Shares:
        """Adds its gradient to what is there, and returns what it came to."""


@dataclass
class Tally:
    """What the updates of a step came to, on average."""

    found: dict[str, list[float]] = field(default_factory=dict)
    tokens: int = 0

    def add(self, shares: Shares) -> None:
        self.tokens += shares.tokens
        self.note(shares.sums)

    def note(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.found.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        return {name: sum(values) / len(values) for name, values in self.found.items()}


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
    beside: Beside | None = None,
) -> dict[str, float]:
    """Trains `models` in place and returns the last step's loss and metrics. `watch` may end it early, `anchors` pull it
    back to where it began, and `beside` is learnt in every update too.

    Raises Diverged when a gradient is not finite, and Stopped, after saving a checkpoint, when the job is asked to stop.
    """
    watch, portion, clock = watch or Watch(), Portion(steps.micro_tokens), Clock()
    groups = rate_groups(models.trained().values())
    optimizer = make_optimizer(steps.optimizer, groups, steps.learning_rate, steps.weight_decay)
    state, checkpoints = State(models, optimizer, watch, source), Checkpoints(job, steps.checkpoint_seconds, steps.n)
    first, sums = _resume(state, steps.n, job)
    for step in range(first, steps.n):
        with torch.no_grad():
            drawn = source.draw(step, models)
            batch = portion.within_memory(drawn, models, job, lambda _: objective.prepare(drawn, models))  # noqa: B023
        rate = _set_rate(optimizer, steps.rate(step) * watch.times)
        tally = Tally()
        for n, part in enumerate(parts(batch, steps, seed_of(job.seed, step))):
            tally.add(portion.within_memory(part, models, job, partial(shares, models, objective, part)))
            if beside is not None:
                tally.add(beside.learn(models, step * steps.n_updates + n, portion.tokens))
            if anchors is not None:
                anchors.pull()
            tally.note(_clip(models, steps.max_grad_norm, step))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        sums = {**source.told(), **tally.means()}
        _report(job, step + 1, steps.n, rate, tally.tokens, sums, clock.lap())
        source.heard(step + 1, sums, job)
        watch.after(step + 1, steps.n, models, optimizer, job)
        if watch.ended:
            break
        checkpoints.after(step + 1, state, sums)
    return sums


def parts(batch: Batch, steps: "Steps", seed: int) -> Iterator[Batch]:
    """The batches of the updates of one step: the whole batch or, for objectives that learn from the same rollouts
    several times, `passes` over it in `minibatches` pieces, shuffled anew each time."""
    if steps.n_updates == 1:
        yield batch
        return
    size = -(-len(batch.trees) // steps.minibatches)
    for turn in range(steps.passes):
        order = torch.randperm(len(batch.trees), generator=torch.Generator().manual_seed(seed_of(seed, turn))).tolist()
        yield from (batch.select(order[start : start + size]) for start in range(0, len(order), size))


def _resume(state: State, n: int, job: Job) -> tuple[int, dict[str, float]]:
    """Where to go on, and the metrics of the step before."""
    try:
        first, sums = load_checkpoint(job.scratch, state)
    except Damaged as damage:
        job.emit("alert", level="warning", title=str(damage), cure="")
        first, sums = 0, {}
    if first:
        job.note(f"going on after step {first} of {n}")
    else:
        state.watch.begin(state.models, state.optimizer)
    return first, sums


def step_shares(models: Models, objective: Loss, batch: Batch, micro_tokens: int) -> Shares:
    """Prepares a batch and leaves its gradient in the parameters."""
    with torch.no_grad():
        batch = objective.prepare(batch, models)
    return shares(models, objective, batch, micro_tokens)


def shares(models: Models, objective: Loss, batch: Batch, micro_tokens: int) -> Shares:
    """Leaves the gradient of a prepared batch in the parameters, whatever the size of its micro-batches."""
    found = Shares()
    total = batch.counts()
    for micro in batch.split(micro_tokens):
        loss, metrics = objective.loss(models, micro, total)
        loss.backward()
        found.add(loss=loss, **metrics)
        found.tokens += micro.n_tokens()
    return found


def _clip(models: Models, max_norm: float, step: int) -> dict[str, float]:
    """The length of each model's gradient, held to `max_norm`: a critic that errs much does not slow the policy down."""
    policy, bridge = models.policy.trainable(), list(models.bridge.parameters()) if models.bridge is not None else []
    known = {id(p) for p in (*policy, *bridge)}
    others = [p for p in models.trained().values() if id(p) not in known]
    each = {"grad_norm": policy, "critic_grad_norm": others, "bridge_grad_norm": bridge}
    norms = {name: float(torch.nn.utils.clip_grad_norm_(of, max_norm)) for name, of in each.items() if of}
    if not all(map(math.isfinite, norms.values())):
        raise Diverged(
            f"The gradient of step {step + 1} is not finite. Lower `learning_rate`, or train in `dtype: float32`."
        )
    return norms


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    """Every group learns at its own multiple of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["times"]
    return rate


def _report(job: Job, step: int, n: int, rate: float, tokens: int, sums: Mapping[str, float], seconds: float) -> None:
    speed = round(tokens / max(seconds, 1e-9), 1)
    job.emit("progress", step=step, of=n, lr=rate, tokens=tokens, tokens_per_s=speed, **sums)
