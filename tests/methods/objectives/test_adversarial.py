"""Adversarial training holds where a prompt is moved, and with no weight on that it is fine-tuning."""

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.methods.objectives.adversarial import Adversarial
from posttrain.models.disturbing import Disturbance
from posttrain.models.policy import Models, Policy
from tests import tiny

BATCH = Batch(tiny.trees(6, 1))


def models() -> Models:
    return Models(Policy(tiny.model(), tiny.tokenizer(), layout="packed"))


def nll(policy: Policy) -> torch.Tensor:
    return -policy.logps(BATCH).sum() / BATCH.counts().tokens


def worst(policy: Policy, radius: float) -> float:
    """The loss under a disturbance that is sought longer than in training."""
    disturbance = Disturbance(policy, BATCH.trees, radius)
    for _ in range(6):
        disturbance.step(lambda: -policy.logps(BATCH).sum(), 0.5)
    with disturbance.applied():
        return nll(policy).item()


def test_the_loss_is_what_both_prompts_cost():
    both = models()
    loss, metrics = Adversarial(radius=0.3, weight=0.25).loss(both, BATCH, BATCH.counts())
    assert loss.item() == pytest.approx(0.75 * metrics["undisturbed"].item() + 0.25 * metrics["disturbed"].item())
    assert metrics["undisturbed"].item() == pytest.approx(nll(both.policy).item())
    assert metrics["disturbed"] > metrics["undisturbed"]
    alone, told = Adversarial(radius=0.3, weight=1).loss(both, BATCH, BATCH.counts())
    assert alone.item() == pytest.approx(metrics["disturbed"].item()) and set(told) == {"disturbed"}


def test_a_wider_ball_and_more_steps_are_worse():
    def disturbed(**options: float) -> float:
        return Adversarial(**options).loss(models(), BATCH, BATCH.counts())[1]["disturbed"].item()  # type: ignore[arg-type]

    assert disturbed(radius=0.05) < disturbed(radius=0.1) < disturbed(radius=0.3)
    assert disturbed(radius=0.3, ascents=1) < disturbed(radius=0.3, ascents=4)


def test_without_gradient_nobody_attacks():
    both = models()
    with torch.no_grad():
        loss, metrics = Adversarial().loss(both, BATCH, BATCH.counts())
    assert loss.item() == pytest.approx(nll(both.policy).item()) and not metrics


@pytest.mark.slow
def test_what_was_trained_so_holds_better_than_what_was_fine_tuned():
    def trained(objective: Adversarial | None) -> Policy:
        both = models()
        optimizer = torch.optim.AdamW(both.policy.trainable(), lr=3e-3)
        for _ in range(40):
            loss = objective.loss(both, BATCH, BATCH.counts())[0] if objective else nll(both.policy)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return both.policy

    tuned, hardened = trained(None), trained(Adversarial(radius=0.5, weight=0.5))
    assert nll(tuned).item() < 0.5 and nll(hardened).item() < 0.5
    assert worst(hardened, 0.5) < 0.7 * worst(tuned, 0.5)
