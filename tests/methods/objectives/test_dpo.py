"""DPO by hand, and what it does to a model's preferences."""

import math

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.methods.objectives.dpo import DPO
from posttrain.models.policy import Models, Policy
from tests import tiny

PAIRS = [{"prompt": f"say {word}", "chosen": word, "rejected": word[::-1]} for word in ("abc", "xyz", "no", "tuv")]


def models() -> Models:
    return Models(*(Policy(tiny.model(seed=seed), tiny.tokenizer()) for seed in (1, 2)))


@torch.no_grad()
def loss_of(objective: DPO, both: Models, batch: Batch) -> tuple[float, dict[str, float]]:
    loss, metrics = objective.loss(both, objective.prepare(batch, both), batch.counts())
    return loss.item(), {name: float(value) for name, value in metrics.items()}


def test_a_policy_that_is_its_reference_is_at_log_two():
    both = models()
    twin = Models(both.policy, both.policy)
    loss, metrics = loss_of(DPO(), twin, Batch(tiny.trees(3, 2)))
    assert loss == pytest.approx(math.log(2))
    assert metrics["accuracy"] == 0.0  # no chosen answer is preferred: a tie is no win
    assert metrics["margin"] == pytest.approx(0.0, abs=1e-6)


@torch.no_grad()
def test_by_hand_on_one_pair():
    both, batch = models(), Batch(tiny.trees(1, 2))
    chosen, rejected = (both.policy.answer_logps(batch) - both.reference.answer_logps(batch)).tolist()
    margin = 0.3 * (chosen - rejected)
    plain = math.log1p(math.exp(-margin))
    flipped = math.log1p(math.exp(margin))
    assert loss_of(DPO(beta=0.3), both, batch)[0] == pytest.approx(plain, rel=1e-4)
    assert loss_of(DPO(beta=0.3, label_smoothing=0.2), both, batch)[0] == pytest.approx(
        0.8 * plain + 0.2 * flipped, rel=1e-4
    )
    nll = -float(both.policy.answer_logps(batch)[0]) / batch.counts().chosen_tokens
    assert loss_of(DPO(beta=0.3, nll=0.5), both, batch)[0] == pytest.approx(plain + 0.5 * nll, rel=1e-4)


def test_the_reference_gets_no_gradient():
    both, batch = models(), Batch(tiny.trees(2, 2))
    with torch.no_grad():
        prepared = DPO().prepare(batch, both)
    loss, _ = DPO().loss(both, prepared, batch.counts())
    loss.backward()
    assert all(p.grad is None for p in both.reference.model.parameters())


@pytest.mark.parametrize("adapter", [None, {"lora": {"rank": 4}}])
def test_it_turns_preferences_around(workshop, adapter):
    base, data = workshop.model(), workshop.rows(*PAIRS)
    options = {"learning_rate": 3e-3 if adapter is None else 3e-2, "steps": 20, "batch_size": 4, "adapter": adapter}
    before = workshop.findings("preference_accuracy", base, data)
    aligned = workshop.run("dpo", base, data, **options)
    after = workshop.findings("preference_accuracy", aligned, data)
    assert after.metrics["margin"].value > before.metrics["margin"].value + 1
    assert after.metrics["accuracy"].value == 1.0
    assert aligned.facts["final"]["loss"] < math.log(2) / 2


def test_an_adapter_goes_on_against_itself_as_it_was(workshop):
    """The reference of a second stage is the first stage's adapter, not the bare base: its first loss is log 2."""
    data = workshop.rows(*PAIRS)
    first = workshop.run("dpo", workshop.model(), data, learning_rate=3e-2, steps=10, adapter={"lora": {"rank": 4}})
    second = workshop.run("dpo", first, data, learning_rate=1e-9, steps=1)
    assert second.form == "adapter"
    assert second.facts["final"]["loss"] == pytest.approx(math.log(2), rel=1e-4)
