"""The reward model's loss and gradients are those of TRL's RewardTrainer, on the same weights and rows."""

from dataclasses import replace

import pytest

from posttrain.functional.layout import Tree
from posttrain.methods.objectives.reward import Reward
from posttrain.models.policy import Models
from posttrain.models.scorer import Scorer
from tests import tiny
from tests.agreement.beside_trl import PAIRS, TEXTS, assert_agreement, datasets, grown, ours, settings, their_batch, trl

MARGINS = (0.5, 2.0, 1.25)


def graded(trees: tuple[Tree, ...], margins: tuple[float, ...]) -> tuple[Tree, ...]:
    """The chosen answer is worth its margin, the rejected one nothing: as pairs with a margin are read."""
    return tuple(
        replace(tree, branches=tuple(replace(b, grade=g) for b, g in zip(tree.branches, (margin, 0.0), strict=True)))
        for tree, margin in zip(trees, margins, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(
    ("objective", "with_margin"),
    [
        (Reward(), False),
        (Reward(margin=1.0), True),
        (Reward(centring=0.3), False),
        (Reward(margin=1.0, centring=0.3), True),
    ],
)
def test_reward_loss(tmp_path, objective, with_margin, family, layout):
    margins = MARGINS if with_margin else (1.0,) * len(TEXTS)
    rows = [{**row, **({"margin": m} if with_margin else {})} for row, m in zip(PAIRS, margins, strict=True)]
    model = tiny.reward_model(family, seed=1)
    trainer = trl.RewardTrainer(
        model,
        trl.RewardConfig(**settings(tmp_path), center_rewards_coefficient=objective.centring or None),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
    )
    model.eval()  # no dropout on either side
    theirs = trainer.compute_loss(model, their_batch(trainer))
    policy = Scorer(tiny.reward_model(family, seed=1), tiny.tokenizer(), layout=layout)
    found = ours(objective, Models(policy), graded(grown(TEXTS, 2), margins))
    assert found.item() > 0.05
    assert_agreement(policy, found, model, theirs)


def test_the_margin_changes_the_loss():
    """Else to agree with a margin would say nothing."""
    policy = Models(Scorer(tiny.reward_model(seed=1), tiny.tokenizer()))
    without, with_it = (
        ours(objective, policy, graded(grown(TEXTS, 2), MARGINS)) for objective in (Reward(), Reward(margin=1.0))
    )
    assert abs((without - with_it).item()) > 0.1
