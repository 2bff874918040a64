"""A learning-rate range test on a stage of a recipe: on the model it begins with and its own rows, leaving nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.engine.lr_find import Curve, range_test
from posttrain.engine.store import Store
from posttrain.engine.train import Training
from posttrain.schema.errors import UsageError, nearest

from .plan import Plan
from .run import RUNS, STORE, Source, prepare
from .step import Step
from .work import given, kept


@dataclass(frozen=True)
class Found:
    """The curve of a stage."""

    stage: str
    curve: Curve


def find_rate(
    recipe: Source,
    overrides: Sequence[str] = (),
    stage: str | None = None,
    *,
    out: Path | str = RUNS,
    watch: Callable[[int, float, float], None] = lambda step, rate, loss: None,
    **how: Any,
) -> Found:
    """What each rate does to a training stage of a recipe; `how` goes to `engine.lr_find.range_test`.

    Raises UsageError for a stage that trains nothing or begins with what is not made yet.
    """
    store = Store(Path(out) / STORE)
    plan, outside = prepare(recipe, overrides, store)
    step = _chosen(plan, stage)
    try:
        inputs: dict[str, Any] = given(step, kept(plan, store, outside), outside)
    except KeyError as error:
        raise UsageError(
            f"{step.name!r} reads what {error.args[0]!r} makes, and that is not made yet. Make it with `posttrain run … "
            f"--until {error.args[0]}`, then look for the rate."
        ) from error
    assert isinstance(step.stage, Training)
    model, data = inputs.pop("model"), inputs.pop("data")
    curve = range_test(step.stage, model, data, others=inputs, seed=plan.recipe.seed, watch=watch, **how)
    return Found(step.name, curve)


def _chosen(plan: Plan, name: str | None) -> Step:
    """The stage of this name, or the only one that trains."""
    trained = {step.name: step for step in plan.steps if isinstance(step.stage, Training)}
    if not trained:
        raise UsageError("No stage of this recipe trains, so that none has a learning rate. Name another recipe.")
    if name is None and len(trained) > 1:
        raise UsageError(f"Several stages train: {', '.join(trained)}. Name one of them behind the recipe.")
    if name is not None and name not in trained:
        raise UsageError(f"There is no stage {name!r} that trains. {nearest(name, trained)}")
    return trained[name or next(iter(trained))]
