"""SimPO by hand, and what it does to a model's preferences."""

import math

import pytest

from posttrain.data.batch import Batch
from posttrain.methods.objectives.simpo import SimPO
from tests import tiny
from tests.methods.objectives.pairs import assert_it_turns_preferences_around, loss_of, models, told


def test_the_defaults_are_the_paper_s_and_nothing_is_added():
    assert SimPO().model_dump() == {"beta": 2.0, "gamma": 1.0, "nll": 0.0}
    assert not SimPO.needs


def test_by_hand_on_one_pair():
    both, batch = models(reference=False), Batch(tiny.trees(1, 2))
    (chosen, rejected), _, lengths = told(both, batch)
    means = chosen / lengths[0], rejected / lengths[1]
    margin = 1.5 * (means[0] - means[1])
    loss, metrics = loss_of(SimPO(beta=1.5, gamma=0.4), both, batch)
    assert loss == pytest.approx(math.log1p(math.exp(0.4 - margin)), rel=1e-4)
    assert metrics["margin"] == pytest.approx(margin, rel=1e-4)
    assert (metrics["chosen_logp"], metrics["rejected_logp"]) == pytest.approx(means, rel=1e-4)
    more = loss_of(SimPO(beta=1.5, gamma=0.4, nll=0.5), both, batch)[0]
    assert more == pytest.approx(loss - 0.5 * means[0], rel=1e-4)


@pytest.mark.slow
def test_it_turns_preferences_around(workshop):
    final = assert_it_turns_preferences_around(workshop, "simpo", learning_rate=3e-3, steps=20, per="token")
    assert final["margin"] > SimPO().gamma
