"""The distillation loss and its gradient are those of TRL's GKD, which leaves T^2 out as well."""

import warnings

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.methods.objectives.distill import Distill
from posttrain.models.policy import Models, Policy
from tests import tiny

pytest.importorskip("trl", reason="TRL is not installed: pip install 'posttrain[bench]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    gkd = pytest.importorskip("trl.experimental.gkd")

TREES = tiny.trees(5, 1, seed=3)
OURS = {0.0: {}, 1.0: {"divergence": "reverse"}, 0.3: {"divergence": "jsd", "beta": 0.3}}


def policy(seed: int) -> Policy:
    return Policy(tiny.model(seed=seed), tiny.tokenizer(), layout="packed")


def logits(of: Policy) -> torch.Tensor:
    """(1, N, V): what stands before the trained tokens."""
    found = []
    for tree in TREES:
        (branch,) = tree.branches
        each = of.model(torch.tensor([[*tree.prompt, *branch.tokens]])).logits[0, len(tree.prompt) - 1 : -1]
        found.append(each[torch.tensor(branch.trained)])
    return torch.cat(found)[None]


def slope(of: Policy) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in of.trainable()])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", OURS)
def test_the_generalised_jensen_shannon_divergence(beta, temperature):
    ours, theirs, teacher, batch = policy(1), policy(1), policy(2), Batch(TREES)
    objective = Distill(temperature=temperature, **OURS[beta])
    loss, _ = objective.loss(Models(ours, teacher=teacher), batch, batch.counts())
    loss.backward()
    labels = torch.zeros(1, batch.counts().tokens, dtype=torch.long)
    expected = gkd.GKDTrainer.generalized_jsd_loss(
        logits(theirs), logits(teacher).detach(), labels, beta, temperature, reduction="batchmean"
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (slope(ours) - slope(theirs)).norm() < 1e-5 * slope(theirs).norm()
