"""IPO by hand, and where its margins settle."""

import pytest

from posttrain.data.batch import Batch
from posttrain.methods.objectives.ipo import IPO
from posttrain.models.policy import Models
from tests import tiny
from tests.methods.objectives.pairs import (
    PAIRS,
    assert_it_turns_preferences_around,
    assert_the_reference_gets_no_gradient,
    loss_of,
    models,
    told,
)


def test_by_hand_on_one_pair():
    both, batch = models(), Batch(tiny.trees(1, 2))
    policy, reference, lengths = told(both, batch)
    chosen, rejected = (a - b for a, b in zip(policy, reference, strict=True))
    assert lengths[0] != lengths[1]
    margin = chosen / lengths[0] - rejected / lengths[1]
    loss, metrics = loss_of(IPO(beta=0.4), both, batch)
    assert loss == pytest.approx((margin - 1.25) ** 2, rel=1e-4)
    assert metrics["margin"] == pytest.approx(0.4 * margin, rel=1e-4)
    assert metrics["chosen_reward"] == pytest.approx(0.4 * chosen / lengths[0], rel=1e-4)
    assert loss_of(IPO(beta=0.4, reduction="sum"), both, batch)[0] == pytest.approx(
        (chosen - rejected - 1.25) ** 2, rel=1e-4
    )


def test_a_policy_that_is_its_reference_lacks_the_whole_margin():
    both = models()
    loss, _ = loss_of(IPO(beta=0.1), Models(both.policy, both.policy), Batch(tiny.trees(3, 2)))
    assert loss == pytest.approx(25.0)


def test_the_reference_gets_no_gradient():
    assert_the_reference_gets_no_gradient(IPO(), Batch(tiny.trees(2, 2)))


def test_it_turns_preferences_around(workshop):
    assert_it_turns_preferences_around(workshop, "ipo", learning_rate=3e-3, steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_margins_settle_where_they_are_asked_to(workshop, reduction):
    """DPO's would grow on; the margin of beta h aims at 1/2 whatever beta is."""
    options = {"learning_rate": 2e-3, "steps": 80, "batch_size": 4, "beta": 0.5, "reduction": reduction}
    final = workshop.run("ipo", workshop.model(), workshop.rows(*PAIRS), **options).facts["final"]
    assert final["margin"] == pytest.approx(0.5, abs=0.05)
    assert final["loss"] < 0.05
