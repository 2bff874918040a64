"""The SFT loss is the one that transformers computes when labels are -100 outside the answers."""

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree
from posttrain.methods.objectives.sft import SFT
from posttrain.models.policy import Models, Policy
from tests import tiny


def labelled(trees: tuple[Tree, ...]) -> dict[str, torch.Tensor]:
    """Rows padded on the right, with a label for every trained token."""
    width = max(tree.longest_path() for tree in trees)
    ids, labels, mask = torch.zeros(3, len(trees), width, dtype=torch.long)
    labels.fill_(-100)
    for row, tree in enumerate(trees):
        branch = tree.branches[0]
        path, n = tree.prompt + branch.tokens, tree.longest_path()
        ids[row, :n] = torch.tensor(path)
        mask[row, :n] = 1
        for place, (token, trained) in enumerate(
            zip(branch.tokens, branch.trained, strict=True), start=len(tree.prompt)
        ):
            if trained:
                labels[row, place] = token
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_sft_loss_and_gradient(family):
    trees = tiny.trees(6, 1, seed=4, longest=40)
    policy = Policy(tiny.model(family), tiny.tokenizer())
    batch = Batch(trees)
    loss, _ = SFT().loss(Models(policy), batch, batch.counts())
    model = tiny.model(family)
    wanted = model(**labelled(trees)).loss
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
    loss.backward()
    wanted.backward()
    for (name, a), (_, b) in zip(policy.model.named_parameters(), model.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if b.grad is not None:
            assert (a.grad - b.grad).norm() <= 1e-5 * b.grad.norm() + 1e-6, name
