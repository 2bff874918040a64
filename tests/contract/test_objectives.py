"""What every objective keeps, found by listing: its gradient does not depend on how a batch is cut or ordered."""

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit, step_shares
from posttrain.engine.source import FromRows
from posttrain.models.policy import Models, Policy
from posttrain.schema.find import class_of, methods
from posttrain.schema.rows import Pair
from tests import tiny

OBJECTIVES = [name for name, entry in methods().items() if entry.kind == "objective"]


def models() -> Models:
    tokenizer = tiny.tokenizer()
    return Models(
        Policy(tiny.model(seed=1), tokenizer, layout="packed"), Policy(tiny.model(seed=9), tokenizer, layout="packed")
    )


def forest(objective):
    return tiny.trees(8, 2 if objective.reads is Pair else 1, seed=3)


def flat(policy: Policy, what: str) -> torch.Tensor:
    return torch.cat(
        [
            (p.grad if what == "grad" else p.detach()).flatten()
            for p in policy.trainable()
            if p.grad is not None or what != "grad"
        ]
    )


def gradient(objective, trees, micro_tokens) -> torch.Tensor:
    both = models()
    step_shares(both, objective, Batch(tuple(trees)), micro_tokens)
    return flat(both.policy, "grad")


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    found = class_of(request.param)
    full = {name: 0.3 for name in ("nll", "label_smoothing") if name in found.model_fields}  # every term of the loss
    return found(**full)


def test_weights_after_twenty_steps_agree_over_micro_batches(objective, tmp_path):
    ends = []
    for micro_tokens in (10**6, 60, 1):
        both = models()
        steps = Steps(20, 1e-3, micro_tokens=micro_tokens)
        fit(both, objective, FromRows(forest(objective), 4, seed=0), steps, Job(tmp_path, tmp_path / str(micro_tokens)))
        ends.append(flat(both.policy, "weights"))
    moved = (ends[0] - flat(models().policy, "weights")).abs().max()
    assert moved > 1e-3
    for end in ends[1:]:
        assert (ends[0] - end).abs().max() < 1e-4 * moved + 2e-5


def test_order_of_rows_does_not_matter(objective):
    trees = forest(objective)
    one, other = gradient(objective, trees, 60), gradient(objective, trees[::-1], 60)
    assert (one - other).norm() / one.norm() < 1e-5


def test_gradients_are_finite_and_not_nothing(objective):
    found = gradient(objective, forest(objective), 10**6)
    assert bool(found.isfinite().all())
    assert found.norm() > 1e-4


def test_settings_round_trip(objective):
    assert type(objective).model_validate(objective.model_dump(mode="json")) == objective
