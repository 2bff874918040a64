"""RLOO by hand, answer by answer, with whole logits."""

import math

import pytest
import torch

from posttrain.methods.objectives.rloo import RLOO
from posttrain.models.load import load_policy
from tests.methods.objectives.test_grpo import BATCH, FAST, PROMPTS, alone, models
from tests.rolled import some


@pytest.mark.parametrize("t", [1.0, 0.7])
def test_by_hand_after_some_steps(t):
    """KL is part of the reward, summed over the answer; the answer has one ratio."""
    objective, of = RLOO(temperature=t, clip=0.3), models(moved=0.04)
    with torch.no_grad():
        batch = objective.prepare(BATCH, models())
        loss, metrics = objective.loss(of, batch, batch.counts())
    old, now, refs = ([sum(x) for x in alone(each, t)] for each in (models().policy, of.policy, of.reference))
    earned = [
        r - p - 0.2 * (a - b)
        for r, p, a, b in zip(BATCH.reward.tolist(), BATCH.penalty.tolist(), old, refs, strict=True)
    ]
    total, held = 0.0, 0
    for n in range(6):
        others = [earned[m] for m in range(n % 2, 6, 2) if m != n]
        advantage, ratio = earned[n] - sum(others) / 2, math.exp(now[n] - old[n])
        clipped = min(max(ratio, 0.7), 1.3)
        assert batch.advantage[n].item() == pytest.approx(advantage, rel=1e-3, abs=1e-3)
        total += max(-ratio * advantage, -clipped * advantage) / 6
        held += -clipped * advantage > -ratio * advantage
    assert loss.item() == pytest.approx(total, rel=1e-3)
    assert 0 < held < 6
    assert metrics["clipped"].item() == pytest.approx(held / 6)
    assert metrics["kl"].item() == pytest.approx(sum(a - b for a, b in zip(old, refs, strict=True)) / 6, rel=1e-3)


def test_a_first_update_is_reinforce_on_whole_answers():
    of, again = models(), models()
    with torch.no_grad():
        batch = RLOO().prepare(BATCH, of)
    loss, metrics = RLOO().loss(of, batch, batch.counts())
    loss.backward()
    (-(batch.advantage * again.policy.answer_logps(batch)).mean()).backward()
    for a, b in zip(of.policy.trainable(), again.policy.trainable(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    assert metrics["clipped"] == metrics["kl_to_old"] == 0
    assert all(p.grad is None for p in of.reference.model.parameters())


def test_an_answer_that_is_alone_teaches_nothing():
    batch = BATCH.having(group=torch.arange(6))
    with torch.no_grad():
        assert RLOO().prepare(batch, models()).advantage.abs().max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"adapter": "lora"}, {"passes": 2, "minibatches": 2}])
def test_as_a_stage(workshop, options):
    rewards = {"functions": ["tests.methods.objectives.test_grpo:few_tokens"]}
    made = workshop.run("rloo", workshop.model(), workshop.rows(*PROMPTS), **FAST, **options, reward=rewards)
    assert all(math.isfinite(value) for value in made.facts["final"].values())
    with torch.no_grad():
        moved = load_policy(made).logps(some()) - load_policy(workshop.model()).logps(some())
    assert moved.abs().max() > 1e-3
