"""ORPO by hand, and what it does to a model's preferences."""

import math

import pytest

from posttrain.data.batch import Batch
from posttrain.methods.objectives.orpo import ORPO
from tests import tiny
from tests.methods.objectives.pairs import PAIRS, assert_it_turns_preferences_around, loss_of, models, told


def log_odds(mean: float) -> float:
    p = math.exp(mean)
    return math.log(p / (1 - p))


def test_by_hand_on_two_pairs():
    both, batch = models(reference=False), Batch(tiny.trees(2, 2))
    (c1, c2, r1, r2), _, (n1, n2, m1, m2) = told(both, batch)
    ratios = log_odds(c1 / n1) - log_odds(r1 / m1), log_odds(c2 / n2) - log_odds(r2 / m2)
    nll = -(c1 + c2) / (n1 + n2)
    odds = sum(math.log1p(math.exp(-ratio)) for ratio in ratios) / 2
    loss, metrics = loss_of(ORPO(weight=0.7), both, batch)
    assert loss == pytest.approx(nll + 0.7 * odds, rel=1e-4)
    assert metrics["margin"] == pytest.approx(sum(ratios) / 2, rel=1e-3)
    assert metrics["rejected_logp"] == pytest.approx((r1 / m1 + r2 / m2) / 2, rel=1e-4)


def test_it_turns_preferences_around(workshop):
    assert_it_turns_preferences_around(workshop, "orpo", learning_rate=3e-3, steps=20, per="token")


def test_odds_are_what_tells_it_from_fine_tuning(workshop):
    """Fine-tuning makes the rejected answers as likely as they share tokens with the chosen ones; odds hold them down."""
    data, options = workshop.rows(*PAIRS), {"learning_rate": 3e-3, "steps": 20, "batch_size": 4}
    light, heavy = (
        workshop.run("orpo", workshop.model(), data, weight=weight, **options).facts["final"] for weight in (1e-6, 5.0)
    )
    assert heavy["rejected_logp"] < light["rejected_logp"] - 0.7
    assert heavy["margin"] > light["margin"] + 0.5
