"""KTO agrees with TRL's on the same mismatched answers, and pairs no row with its own where TRL does."""

import math

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.functional.layout import Branch, Tree
from posttrain.methods.objectives.kto import KTO
from posttrain.models.policy import Models
from tests import tiny
from tests.agreement.beside_trl import (
    TEXTS,
    assert_agreement,
    datasets,
    grown,
    ours,
    policy_and_reference,
    settings,
    their_batch,
    trl,
)

ROWS = [(TEXTS[0][0], TEXTS[0][1], True), (TEXTS[1][0], TEXTS[1][2], False), (TEXTS[2][0], TEXTS[2][1], True)]


def thumbs(rows):
    """TRL rotates answers the other way round, so the rows stand in the other order."""
    trees = [
        Tree(tree.prompt, (Branch(tree.branches[0].tokens, tree.branches[0].trained, float(good)),))
        for tree, (_, _, good) in zip(grown([row[:2] for row in rows], 1), rows, strict=True)
    ]
    return tuple(trees[::-1])


def kto_trainer(tmp_path, seeds=(1, 2), **told):
    rows = [{"prompt": prompt, "completion": answer, "label": good} for prompt, answer, good in ROWS]
    policy, reference = (tiny.model(seed=seed) for seed in seeds)
    return trl.KTOTrainer(
        policy, reference, trl.KTOConfig(**{**settings(tmp_path), **told}),
        train_dataset=datasets.Dataset.from_list(rows), processing_class=tiny.tokenizer(),
    )  # fmt: skip


@torch.no_grad()
def origin(both, trees):
    return float(KTO().prepare(Batch(trees), both).z[0])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("layout", ["packed", "padded", "logits"])
def test_kto(tmp_path, layout, turned):
    """With a policy that gives mismatched answers more than its reference does, and with one that gives them less."""
    both = policy_and_reference(layout)
    if turned:
        both = Models(both.reference, both.policy)
    told = {"beta": 0.05, "desirable_weight": 0.8, "undesirable_weight": 1.3}
    trainer = kto_trainer(tmp_path, (2, 1) if turned else (1, 2), **told)
    assert origin(both, thumbs(ROWS)) == 0 if turned else origin(both, thumbs(ROWS)) > 1
    found = ours(KTO(beta=0.05, desirable=0.8, undesirable=1.3), both, thumbs(ROWS))
    assert_agreement(
        both.policy, found, trainer.model, trainer._compute_loss(trainer.model, their_batch(trainer), False)
    )


def test_a_row_left_over_is_its_own_mismatch_there_and_has_none_here(tmp_path):
    """So that what a likelier answer has gained is taken off again, and its loss stays that of no gain at all."""
    trainer, both, alone = (
        kto_trainer(tmp_path, per_device_train_batch_size=2),
        policy_and_reference(),
        thumbs(ROWS[2:]),
    )
    last = trainer.train_dataset[2]
    assert last["KL_completion_ids"] == last["completion_ids"]
    theirs = trainer._compute_loss(trainer.model, trainer.data_collator([last]), False).item()
    gained = float(both.policy.score(Batch(alone)) - both.reference.score(Batch(alone)))
    assert gained > 1
    assert theirs == pytest.approx(0.5, abs=1e-4)
    assert origin(both, alone) == 0
    assert ours(KTO(), both, alone).item() == pytest.approx(1 - 1 / (1 + math.exp(-0.1 * gained)), rel=1e-4)
