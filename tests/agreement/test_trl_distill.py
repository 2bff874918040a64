"""The distillation loss and its gradient are those of TRL's GKD, which leaves T^2 out as well, and of its GOLD for teachers of
other tokens."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.data.chat import ChatFormat
from posttrain.data.trees import plant
from posttrain.engine.other_tokens import OtherTokens
from posttrain.engine.reference import name_of
from posttrain.methods.objectives.distill import Distill
from posttrain.models.policy import Models, Policy
from posttrain.schema.rows import Conversation, Message
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


def uld_loss():
    """TRL's ULD with groups merged by the chain rule, nothing beside it."""
    gold = pytest.importorskip("trl.experimental.gold.gold_trainer")
    told = {
        "uld_crossentropy_weight": 0.0, "uld_distillation_weight": 1.0, "uld_student_temperature": 1.0,
        "uld_teacher_temperature": 1.0, "uld_skip_student_eos": False, "uld_skip_teacher_eos": False,
        "use_extended_uld": True, "uld_token_merge_strategy": "bayesian",
    }  # fmt: skip
    return gold.ULDLoss(SimpleNamespace(**told))


@pytest.mark.parametrize("longer_is_the_teacher", [True, False])
def test_the_distance_between_models_of_other_tokens(longer_is_the_teacher):
    """TRL divides by groups where we divide by tokens."""
    kinds = [(tiny.tokenizer(), {}), (tiny.other_tokenizer(), {"vocab_size": 310, "hidden_size": 64})]
    (tokens, size), (other, other_size) = kinds if longer_is_the_teacher else kinds[::-1]
    made = [Policy(tiny.model(seed=1, **size), tokens, layout="packed") for _ in range(2)]
    teacher = Policy(tiny.model(seed=2, **other_size), other, layout="packed")
    row = Conversation((Message("user", "say hello"), Message("assistant", "the world says hello, abc")))
    (mine,), (theirs,) = (plant([row], ChatFormat(each.tokenizer), 99) for each in (made[0], teacher))
    reads = OtherTokens(teacher, made[0], [theirs], {name_of(mine): 0})
    batch = Batch((mine,))
    loss, _ = Distill(divergence="uld").loss(Models(made[0], teacher=reads), batch, batch.counts())
    loss.backward()
    spans = []
    for tree, tokenizer in ((mine, tokens), (theirs, other)):
        ids = torch.tensor([[*tree.prompt, *tree.branches[0].tokens]])
        labels = torch.where(torch.arange(ids.shape[1]) < len(tree.prompt), -100, ids)
        lengths = [0] * len(tree.prompt) + [max(len(tokenizer.decode([id])), 1) for id in tree.branches[0].tokens]
        lengths[-1] = 1  # the end, whose names are not equally long
        ends = torch.tensor(lengths).cumsum(0)
        spans.append((ids, labels, torch.stack([ends - torch.tensor(lengths), ends], -1)[None]))
    (ids, labels, bytes_), (ids_t, labels_t, bytes_t) = spans
    with torch.no_grad():
        logits_t = teacher.model(ids_t).logits
    expected = uld_loss()(made[1].model(ids).logits, logits_t, labels, labels_t, ids, ids_t, bytes_, bytes_t)
    expected.backward()
    share = len(reads.groups(mine)[0]) / batch.counts().tokens
    assert share < 1 or not longer_is_the_teacher
    assert loss.item() == pytest.approx(share * expected.item(), rel=1e-4)
    assert (slope(made[0]) - share * slope(made[1])).norm() < 1e-4 * slope(made[0]).norm()
