"""CPO by hand, and what it does to a model's preferences."""

import math

import pytest

from posttrain.data.batch import Batch
from posttrain.methods.objectives.cpo import CPO
from tests import tiny
from tests.methods.objectives.pairs import PAIRS, assert_it_turns_preferences_around, loss_of, models, told


def test_by_hand_on_two_pairs():
    """The preference is a mean over pairs, and the cross-entropy one over all chosen tokens."""
    both, batch = models(reference=False), Batch(tiny.trees(2, 2))
    (c1, c2, r1, r2), _, (n1, n2, m1, m2) = told(both, batch)
    margins = 0.3 * (c1 - r1), 0.3 * (c2 - r2)
    prefer = sum(math.log1p(math.exp(-margin)) for margin in margins) / 2
    loss, metrics = loss_of(CPO(beta=0.3), both, batch)
    assert loss == pytest.approx(prefer - (c1 + c2) / (n1 + n2), rel=1e-4)
    assert loss_of(CPO(beta=0.3, nll=0.0), both, batch)[0] == pytest.approx(prefer, rel=1e-4)
    assert metrics["accuracy"] == sum(margin > 0 for margin in margins) / 2
    assert metrics["chosen_logp"] == pytest.approx((c1 / n1 + c2 / n2) / 2, rel=1e-4)
    assert metrics["rejected_logp"] == pytest.approx((r1 / m1 + r2 / m2) / 2, rel=1e-4)


def test_it_turns_preferences_around(workshop):
    assert_it_turns_preferences_around(workshop, "cpo", learning_rate=3e-3, steps=20)


@pytest.mark.slow
def test_cross_entropy_keeps_the_chosen_answers_likely(workshop):
    """Both runs widen the margin; without it the chosen answers may fall as well."""
    data, options = workshop.rows(*PAIRS), {"learning_rate": 3e-3, "steps": 40, "batch_size": 4}
    held, free = (workshop.run("cpo", workshop.model(), data, nll=nll, **options).facts["final"] for nll in (1.0, 0.0))
    assert held["chosen_logp"] > free["chosen_logp"] + 1
