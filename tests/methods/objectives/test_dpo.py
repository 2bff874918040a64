"""DPO by hand, and what it does to a model's preferences."""

import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from posttrain.data.batch import Batch
from posttrain.engine.method import stage_class
from posttrain.functional.layout import Tree
from posttrain.methods.objectives.dpo import DPO
from posttrain.models.policy import Models
from posttrain.schema.settings import problems
from tests import tiny
from tests.methods.objectives.pairs import (
    PAIRS,
    assert_it_turns_preferences_around,
    assert_the_reference_gets_no_gradient,
    loss_of,
    models,
    told,
)


def test_a_policy_that_is_its_reference_is_at_log_two():
    both = models()
    twin = Models(both.policy, both.policy)
    loss, metrics = loss_of(DPO(), twin, Batch(tiny.trees(3, 2)))
    assert loss == pytest.approx(math.log(2))
    assert metrics["accuracy"] == 0.0  # no chosen answer is preferred: a tie is no win
    assert metrics["margin"] == pytest.approx(0.0, abs=1e-6)


def test_by_hand_on_one_pair():
    both, batch = models(), Batch(tiny.trees(1, 2))
    (chosen, rejected), (ref_chosen, ref_rejected), (n_chosen, _) = told(both, batch)
    margin = 0.3 * ((chosen - ref_chosen) - (rejected - ref_rejected))
    plain, flipped = math.log1p(math.exp(-margin)), math.log1p(math.exp(margin))
    wanted = {
        DPO(beta=0.3): plain,
        DPO(beta=0.3, label_smoothing=0.2): 0.8 * plain + 0.2 * flipped,
        DPO(beta=0.3, nll=0.5): plain - 0.5 * chosen / n_chosen,
        DPO(beta=0.3, loss_type="hinge"): max(0.0, 1 - margin),
        DPO(beta=0.3, loss_type="robust", label_smoothing=0.2): (0.8 * plain - 0.2 * flipped) / 0.6,
    }
    for objective, loss in wanted.items():
        assert loss_of(objective, both, batch)[0] == pytest.approx(loss, rel=1e-4), objective


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"loss_type": "hinge"}, {"nll": 0.5}])
def test_a_pair_that_is_not_sure_counts_both_ways(options):
    """By hand: p of the loss as it stands, 1 - p of the loss with the answers in each other's place."""
    both, trees = models(), tiny.trees(2, 2)
    objective = DPO(beta=0.3, **options)
    sure = [loss_of(objective, both, Batch((tree,)))[0] for tree in trees]
    turned = [loss_of(DPO(beta=0.3, **options | {"nll": 0}), both, Batch((swapped(tree),)))[0] for tree in trees]
    more = [
        -options.get("nll", 0) * told(both, Batch((tree,)))[0][0] / tree.branches[0].n_trained() for tree in trees
    ]  # the chosen answer's cross-entropy is asked for whichever is better
    wanted = [0.7 * (a - c) + 0.3 * b + c for a, b, c in zip(sure, turned, more, strict=True)]
    for tree, loss in zip(trees, wanted, strict=True):
        assert loss_of(objective, both, Batch((doubted(tree, 0.7),)))[0] == pytest.approx(loss, rel=1e-4)


def test_probabilities_belong_to_their_rows():
    both, (one, two) = models(), tiny.trees(2, 2)
    apart = [loss_of(DPO(beta=0.3), both, Batch((doubted(tree, p),)))[0] for tree, p in ((one, 0.9), (two, 0.55))]
    together, _ = loss_of(DPO(beta=0.3), both, Batch((doubted(one, 0.9), doubted(two, 0.55))))
    assert together == pytest.approx(sum(apart) / 2, rel=1e-4)
    mixed = loss_of(DPO(beta=0.3), both, Batch((doubted(one, 0.9), two)))[0]
    assert mixed == pytest.approx((apart[0] + loss_of(DPO(beta=0.3), both, Batch((two,)))[0]) / 2, rel=1e-4)


def test_the_same_doubt_on_every_row_is_label_smoothing():
    both, trees = models(), tiny.trees(3, 2)
    smooth = loss_of(DPO(beta=0.3, label_smoothing=0.2), both, Batch(trees))[0]
    doubt = Batch(tuple(doubted(tree, 0.8) for tree in trees))
    assert loss_of(DPO(beta=0.3), both, doubt)[0] == pytest.approx(smooth, rel=1e-5)
    assert smooth != pytest.approx(loss_of(DPO(beta=0.3), both, Batch(trees))[0], rel=1e-3)


def test_a_coin_is_learnt_as_a_coin(workshop):
    """Rows that are as good as a coin leave the preferences where they were; rows that are sure do not."""
    base = workshop.model()
    moved = {}
    for p in (0.5, 1.0):
        rows = workshop.rows(*({**row, "probability": p} for row in PAIRS))
        made = workshop.run("dpo", base, rows, learning_rate=3e-3, steps=20, batch_size=4)
        moved[p] = made.facts["final"]["margin"]
    assert abs(moved[0.5]) < 0.3
    assert moved[1.0] > 1


def doubted(tree, p: float):
    one, other = tree.branches
    return Tree(tree.prompt, (replace(one, chance=p), replace(other, chance=1 - p)))


def swapped(tree):
    return Tree(tree.prompt, tree.branches[::-1])


def test_the_log_shows_both_answers():
    """Rewards of both sides: a margin that grows while both fall is seen."""
    both, batch = models(), Batch(tiny.trees(3, 2))
    policy, reference, _ = told(both, batch)
    rewards = [0.3 * (a - b) for a, b in zip(policy, reference, strict=True)]
    _, metrics = loss_of(DPO(beta=0.3), both, batch)
    assert metrics["chosen_reward"] == pytest.approx(sum(rewards[:3]) / 3, rel=1e-4)
    assert metrics["rejected_reward"] == pytest.approx(sum(rewards[3:]) / 3, rel=1e-4)
    assert metrics["margin"] == pytest.approx(metrics["chosen_reward"] - metrics["rejected_reward"], rel=1e-4)


def test_an_option_without_effect_is_refused():
    with pytest.raises(ValidationError, match="leave it out, or take `loss_type: sigmoid`"):
        DPO(loss_type="hinge", label_smoothing=0.1)
    with pytest.raises(ValidationError, match="give `label_smoothing"):
        DPO(loss_type="robust")


def test_it_is_refused_before_anything_is_run():
    """A stage's settings are checked as the objective's own are, when a recipe is read."""
    ((path, problem),) = problems(stage_class("dpo"), {"data": "pairs.jsonl", "loss_type": "robust"})
    assert path == ""
    assert problem.message.endswith("give `label_smoothing: 0.1`, or take `loss_type: sigmoid`.")
    assert "pairs.jsonl" not in problem.message


def test_the_reference_gets_no_gradient():
    assert_the_reference_gets_no_gradient(DPO(), Batch(tiny.trees(2, 2)))


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"loss_type": "hinge"}, {"loss_type": "robust", "label_smoothing": 0.1}])
def test_every_loss_turns_preferences_around(workshop, options):
    assert_it_turns_preferences_around(workshop, "dpo", learning_rate=3e-3, steps=20, **options)


def test_an_adapter_goes_on_against_itself_as_it_was(workshop):
    """The reference of a second stage is the first stage's adapter, not the bare base: its first loss is log 2."""
    data = workshop.rows(*PAIRS)
    first = workshop.run("dpo", workshop.model(), data, learning_rate=3e-2, steps=10, adapter={"lora": {"rank": 4}})
    second = workshop.run("dpo", first, data, learning_rate=1e-9, steps=1)
    assert second.form == "adapter"
    assert second.facts["final"]["loss"] == pytest.approx(math.log(2), rel=1e-4)
