"""Limits against findings made by hand: the value, the worst of its interval, and the difference row by row."""

import pytest

from posttrain.functional.statistics import paired_difference, wilson
from posttrain.pipeline.gates import judged
from posttrain.pipeline.recipe import Gate
from posttrain.pipeline.tree import Node
from posttrain.schema.errors import PosttrainError
from posttrain.schema.findings import Findings, Graded, Metric

RIGHT, WORSE = [1.0] * 45 + [0.0] * 5, [0.0] * 3 + [1.0] * 42 + [0.0] * 5


def found(scores: list[float], better: str = "higher") -> Findings:
    rate = wilson(sum(scores), len(scores))
    metrics = {
        "rate": Metric(rate.value, rate.n, rate.low, rate.high, better=better),
        "bytes": Metric(10.0, unit="bytes"),
    }
    return Findings("m", "benchmark", metrics, tuple(Graded(f"r{i}", s, f"prompt {i}") for i, s in enumerate(scores)))


def gate(rule: str, limit: float, metric: str = "rate", against: str | None = None) -> Gate:
    return Gate(f"m.{metric}", rule, limit, Node(None), against)


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("at_least", 0.84),
        ("at_most", 0.84),
        ("surely_at_least", wilson(42, 50).low),
        ("surely_at_most", wilson(42, 50).high),
        ("drop_at_most", 0.06),
        ("rise_at_most", -0.06),
        ("surely_drop_at_most", -paired_difference(RIGHT, WORSE).low),
        ("surely_rise_at_most", paired_difference(RIGHT, WORSE).high),
    ],
)
def test_what_each_rule_looks_at(rule: str, value: float) -> None:
    sign = -1 if rule.endswith("at_least") else 1
    before, after = found(RIGHT), found(WORSE)
    holds, fails = (judged(gate(rule, value + sign * step), after, before) for step in (1e-6, -1e-6))
    assert holds.value == pytest.approx(value) and holds.passed and not fails.passed


def test_a_drop_that_is_within_the_margin_may_not_surely_be() -> None:
    before, after = found(RIGHT), found(WORSE)
    assert judged(gate("drop_at_most", 0.08), after, before).passed
    assert not judged(gate("surely_drop_at_most", 0.08), after, before).passed


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_limit_that_does_not_hold_names_the_prompts_that_became_worse(better: str) -> None:
    flipped = [1 - s for s in RIGHT], [1 - s for s in WORSE]
    before, after = (found(s, better) for s in ((RIGHT, WORSE) if better == "higher" else flipped))
    assert judged(gate("surely_at_least", 0.99), after, before).changed == ("prompt 0", "prompt 1", "prompt 2")
    assert judged(gate("at_least", 0), after, before).changed == ()
    assert judged(gate("at_least", 2), after, None).changed == ()


def test_a_metric_without_interval_cannot_be_held_surely() -> None:
    for rule in ("surely_at_most", "surely_drop_at_most"):
        with pytest.raises(PosttrainError, match=r"has no interval. Write `(drop_)?at_most` instead"):
            judged(gate(rule, 20, "bytes"), found(WORSE), found(RIGHT))
    assert judged(gate("at_most", 20, "bytes"), found(WORSE), found(RIGHT)).passed


def test_a_relative_rule_needs_the_other_model() -> None:
    with pytest.raises(PosttrainError, match="Name another as `against`"):
        judged(gate("drop_at_most", 1, against="x"), found(WORSE), None)
