"""Whether a limit of a recipe holds, and on which prompts a model changed where it does not. Pure.

at_least, at_most                the value found
drop_at_most, rise_at_most       how much it fell or rose since another model
surely_…                         the same of the worst value in the 95 % interval: of the metric, or of the difference row
                                 by row. A drop that is surely at most 0.02 is non-inferiority with a margin of 0.02
"""

from dataclasses import dataclass

from posttrain.report.compare import Change, Comparison, compare
from posttrain.schema.errors import PosttrainError
from posttrain.schema.findings import Findings, Metric
from posttrain.schema.record import ModelRecord

from .recipe import SURELY, Gate

ROUNDING = 1e-9  # differences of shares are not exact in binary
N_SHOWN = 3  # prompts that a gate names


@dataclass(frozen=True)
class Verdict:
    """What was found, whether it holds the limit, and prompts that are answered worse than before."""

    value: float
    passed: bool
    changed: tuple[str, ...] = ()


def judged(gate: Gate, found: Findings, before: Findings | None) -> Verdict:
    """Whether a limit holds for what was found; `before` is what was found of the model that it is held against. Raises
    PosttrainError where a rule needs an interval and there is none."""
    compared = _compared(gate.measure, before, found) if before else None
    metric = gate.metric.partition(".")[2]
    value = _moved(gate, compared, metric) if gate.is_relative else _reached(gate, found.metrics[metric])
    passed = value >= gate.limit - ROUNDING if gate.plain == "at_least" else value <= gate.limit + ROUNDING
    return Verdict(value, passed, () if passed or compared is None else _worse(compared))


def _compared(name: str, before: Findings, after: Findings) -> Comparison:
    first, second = (
        ModelRecord(side, "", "", "", 0, {name: found}) for side, found in (("before", before), ("after", after))
    )
    return compare(first, second)


def _reached(gate: Gate, metric: Metric) -> float:
    """The value of a metric, or the end of its interval that is worst for the limit."""
    if not gate.rule.startswith(SURELY):
        return metric.value
    end = metric.low if gate.plain == "at_least" else metric.high
    return _there(gate, end)


def _moved(gate: Gate, compared: Comparison | None, metric: str) -> float:
    """How much a metric fell or rose, as the rule asks."""
    change = compared.change(gate.measure, metric) if compared else None
    if change is None:
        raise PosttrainError(
            f"The gate {gate} compares with a model that was not measured so. Name another as `against`."
        )
    return _drop(gate, change) if gate.plain == "drop_at_most" else _rise(gate, change)


def _drop(gate: Gate, change: Change) -> float:
    return -(_there(gate, change.low) if gate.rule.startswith(SURELY) else change.difference)


def _rise(gate: Gate, change: Change) -> float:
    return _there(gate, change.high) if gate.rule.startswith(SURELY) else change.difference


def _there(gate: Gate, end: float | None) -> float:
    if end is None:
        raise PosttrainError(f"The gate {gate}: this metric has no interval. Write `{gate.plain}` instead.")
    return end


def _worse(compared: Comparison) -> tuple[str, ...]:
    """The first prompts that are answered worse than before."""
    contrast = next(iter(compared.contrasts), None)
    if contrast is None:
        return ()
    sign = 1 if contrast.right else -1
    lost = [after.prompt for before, after in contrast.pairs if sign * after.score < sign * before.score]
    return tuple(lost[:N_SHOWN])
