"""Learning-rate range test (Smith 2015, arXiv 1506.01186): train with a rate that rises until the loss explodes, and
look at what each rate did.

    rate_i = lowest (highest / lowest)^(i / (n - 1)),   loss_i on rows held aside, after step i

The loss after every step is measured on the same few rows, which no step sees, so that the luck of batches is not in the
curve. Rates that are too low leave it where it is, good ones bring it down, and one too high breaks the model. Smith
reads two rates off it: the one where the loss begins to fall and the one where it ends to. Suggested is the first rate
that has brought ENOUGH of the whole fall: near the end of the slope, where the loss is still smooth.

On one curvature c, plain descent multiplies the loss by (1 - rate c)^2. With rates that grow by the factor g it has
brought the share ENOUGH, to first order, when the sum of the rates is -ln(1 - ENOUGH) / 2c, which is at
rate = -ln(1 - ENOUGH) (g - 1) / (2 g c): below 1 / c, the best one, and below 2 / c, the end.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from posttrain.data.shelf import Picked
from posttrain.functional.layout import Tree
from posttrain.functional.seeds import seed_of
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import DataError, Diverged, UsageError

from .job import Job
from .loop import Steps, fit
from .source import FromRows
from .train import Training
from .watch import Patience

ENOUGH = 0.8  # share of the whole fall at the suggested rate
LEAST_FALL = 0.01  # share of the first loss; less is no fall
PROBE = 32  # rows held aside, at most a quarter of all
HELD_ASIDE = 2  # tells the seed of the rows held aside from others


@dataclass
class Curve:
    """The loss before the first step, and the loss after each rate."""

    start: float
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def exploded(self) -> bool:
        """Whether the last loss is not finite, or further above the first one than the best is below it, twice."""
        last, best = self.losses[-1], min(self.losses)
        return not math.isfinite(last) or last > self.start + 2 * max(self.start - best, LEAST_FALL * abs(self.start))

    @property
    def suggested(self) -> float | None:
        """The first rate that brought ENOUGH of the fall; None where the loss did not fall."""
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        fall = self.start - min(finite, default=self.start)
        if fall < LEAST_FALL * abs(self.start):
            return None
        low_enough = self.start - ENOUGH * fall
        return next(rate for rate, loss in zip(self.rates, self.losses, strict=True) if loss <= low_enough)


@dataclass(frozen=True)
class Rising(Steps):
    """Steps whose rate rises from `lowest` to `learning_rate`, by the same factor each."""

    lowest: float = 1e-7

    def rate(self, step: int) -> float:
        return self.lowest * (self.learning_rate / self.lowest) ** (step / max(1, self.n - 1))


class _Exploded(Exception):
    """The test has seen what it wants to see."""


def range_test(
    stage: Training,
    model: Model,
    data: tuple[Dataset, ...],
    *,
    others: Mapping[str, Any] | None = None,
    seed: int = 0,
    steps: int = 70,
    lowest: float = 1e-7,
    highest: float = 1.0,
    watch: Callable[[int, float, float], None] = lambda step, rate, loss: None,
) -> Curve:
    """The curve of a stage on its own rows, from a copy of the model that is thrown away. `others` are further inputs by
    name, and `watch` is told of each step. Raises DataError with fewer rows than four, and UsageError
    where these have no answers."""
    with TemporaryDirectory(prefix="posttrain-lr-find-") as folder:
        quiet = Job(Path(folder), Path(folder), seed)
        models, planted = stage.begin(model, data, quiet, **(others or {}))
        if not planted.n_trained:
            raise UsageError(
                "Learning rates are tried on the answers of rows, and this stage draws its own. Look for the rate with rows "
                "that have answers, as `on_policy: 0`, and train with that one."
            )
        objective = stage.make_objective()
        aside, rest = _held_aside(planted.trees, seed)
        probe = Patience(aside, objective, every=1, patience=1)
        curve = Curve(probe.look(models))

        def after_step(kind: str, **fields: Any) -> None:
            if kind != "progress":
                return
            curve.rates.append(fields["lr"])
            curve.losses.append(probe.look(models))
            watch(len(curve.rates), curve.rates[-1], curve.losses[-1])
            if curve.exploded:
                raise _Exploded

        rising = Rising(steps, highest, lowest=lowest, **_kept(stage))
        source = FromRows(rest, stage.batch_size, seed)
        with suppress(_Exploded, Diverged):
            job = Job(Path(folder), Path(folder), seed, after_step)
            fit(models, stage.near(objective, models.reference), source, rising, job)
    return curve


def _kept(stage: Training) -> dict[str, Any]:
    """What the rising steps have in common with the stage's own; no checkpoint is written."""
    same = {name: getattr(stage, name) for name in ("weight_decay", "max_grad_norm", "micro_tokens", "optimizer")}
    return {**same, "checkpoint_seconds": math.inf}


def _held_aside(trees: Sequence[Tree], seed: int) -> tuple[Sequence[Tree], Sequence[Tree]]:
    """Some rows to measure the loss on, and all others."""
    n = min(PROBE, len(trees) // 4)
    if not n:
        raise DataError(f"{len(trees)} rows are too few to hold some aside. Give four rows or more.")
    order = torch.randperm(len(trees), generator=torch.Generator().manual_seed(seed_of(seed, HELD_ASIDE))).numpy()
    return Picked([trees], order[:n]), Picked([trees], order[n:])
