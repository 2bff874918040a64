"""What tests of preference objectives share: rows, two tiny models, and what every one of them must do to preferences."""

from typing import Any

import torch

from posttrain.data.batch import Batch
from posttrain.engine.method import Objective
from posttrain.models.policy import Models, Policy
from tests import tiny

PAIRS = [{"prompt": f"say {word}", "chosen": word, "rejected": word[::-1]} for word in ("abc", "xyz", "no", "tuv")]


def models(reference: bool = True) -> Models:
    """A policy, and another model for its reference."""
    policy, other = (Policy(tiny.model(seed=seed), tiny.tokenizer()) for seed in (1, 2))
    return Models(policy, other if reference else None)


@torch.no_grad()
def loss_of(objective: Objective, both: Models, batch: Batch) -> tuple[float, dict[str, float]]:
    loss, metrics = objective.loss(both, objective.prepare(batch, both), batch.counts())
    return loss.item(), {name: float(value) for name, value in metrics.items()}


@torch.no_grad()
def told(both: Models, batch: Batch) -> tuple[list[float], list[float], list[int]]:
    """The policy's log-probability of every answer, the reference's, and the answers' lengths."""
    of = both.reference or both.policy
    return both.policy.answer_logps(batch).tolist(), of.answer_logps(batch).tolist(), batch.n_trained.tolist()


def assert_the_reference_gets_no_gradient(objective: Objective, batch: Batch) -> None:
    both = models()
    with torch.no_grad():
        prepared = objective.prepare(batch, both)
    objective.loss(both, prepared, batch.counts())[0].backward()
    assert all(p.grad is None for p in both.reference.model.parameters())
    assert any(p.grad is not None for p in both.policy.model.parameters())


def assert_it_turns_preferences_around(workshop: Any, method: str, **options: Any) -> dict[str, float]:
    """Every pair is found the right way round, by a larger margin; returns the last step's metrics."""
    base, data, per = workshop.model(), workshop.rows(*PAIRS), options.pop("per", "answer")
    before = workshop.findings("preference_accuracy", base, data, per=per)
    aligned = workshop.run(method, base, data, **{"batch_size": 8, **options})
    after = workshop.findings("preference_accuracy", aligned, data, per=per)
    assert before.metrics["accuracy"].value < 1
    assert after.metrics["accuracy"].value == 1
    assert after.metrics["margin"].value > before.metrics["margin"].value
    return aligned.facts["final"]
