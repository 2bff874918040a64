"""KTO by hand, its mismatched answers, and what it does to a model's preferences."""

import math
from dataclasses import replace

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.functional.layout import Branch, Tree
from posttrain.methods.objectives.kto import KTO, mismatched
from posttrain.models.policy import Models, Policy
from tests import tiny
from tests.methods.objectives.pairs import (
    PAIRS,
    assert_it_turns_preferences_around,
    assert_the_reference_gets_no_gradient,
    loss_of,
    models,
    told,
)


def row(prompt: str, answer: str, good: bool = True) -> Tree:
    """A letter a token."""
    ids = tuple(map(ord, answer))
    return Tree(tuple(map(ord, prompt)), (Branch(ids, (True,) * len(ids), float(good)),))


def thumbs(*good: bool) -> Batch:
    """Drawn rows with these thumbs."""
    drawn = tiny.trees(len(good), 1, seed=6)
    return Batch(
        tuple(Tree(t.prompt, (replace(t.branches[0], grade=float(g)),)) for t, g in zip(drawn, good, strict=True))
    )


def texts(trees: tuple[Tree, ...]) -> list[tuple[str, str]]:
    return [tuple("".join(map(chr, ids)) for ids in (tree.prompt, tree.branches[0].tokens)) for tree in trees]


def rotated(batch: Batch) -> Batch:
    """The definition, where no two rows are alike."""
    n = len(batch.trees)
    return Batch(tuple(Tree(batch.trees[i].prompt, batch.trees[(i + 1) % n].branches) for i in range(n)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("turned", [False, True])
def test_by_hand(turned):
    """Once with a policy that has moved away on mismatched answers, and once with one that finds them less likely."""
    both, batch = models(), thumbs(True, False, True)
    if turned:
        both = Models(both.reference, both.policy)
    ratios, strays = (
        [a - b for a, b in zip(policy, reference, strict=True)]
        for policy, reference, _ in (told(both, batch), told(both, rotated(batch)))
    )
    z = max(0.0, sum(strays) / 3)
    h1, h2, h3 = ratios
    good = [0.7 * (1 - sigmoid(0.3 * (h - z))) for h in (h1, h3)]
    bad = 1.5 * (1 - sigmoid(0.3 * (z - h2)))
    loss, metrics = loss_of(KTO(beta=0.3, desirable=0.7, undesirable=1.5), both, batch)
    assert loss == pytest.approx((sum(good) + bad) / 3, rel=1e-4)
    assert metrics["kl"] == pytest.approx(z, rel=1e-4)
    assert metrics["good_reward"] == pytest.approx(0.3 * (h1 + h3) / 2, rel=1e-4)
    assert metrics["bad_reward"] == pytest.approx(0.3 * h2, rel=1e-4)
    assert metrics["accuracy"] == pytest.approx(((h1 > z) + (h3 > z) + (h2 < z)) / 3)


def test_the_two_sides_of_zero_are_both_seen_by_hand():
    both, batch = models(), thumbs(True, False, True)
    found = [loss_of(KTO(), each, batch)[1]["kl"] for each in (both, Models(both.reference, both.policy))]
    assert min(found) == 0 < max(found)


def test_a_policy_that_is_its_reference_is_at_one_half():
    both = models()
    loss, metrics = loss_of(KTO(), Models(both.policy, both.policy), thumbs(True, False, False, True))
    assert loss == pytest.approx(0.5)
    assert (metrics["kl"], metrics["accuracy"]) == (0, 0)


def test_every_prompt_gets_the_next_row_s_answer():
    trees = (row("a", "one"), row("b", "two", False), row("c", "three"))
    assert texts(mismatched(trees, lambda n: 99)) == [("a", "two"), ("b", "three"), ("c", "one")]


def test_a_mismatched_answer_is_never_one_of_the_batch():
    """Not the row's own words said by another row, and not the prompt's other answer."""
    same = (row("a", "yes"), row("b", "yes"), row("c", "no"))
    assert texts(mismatched(same, lambda n: 99)) == [("b", "no"), ("c", "yes")]
    pair = (row("a", "one"), row("a", "two", False), row("b", "three"))
    assert texts(mismatched(pair, lambda n: 99)) == [("a", "three"), ("b", "one")]


def test_a_mismatched_answer_fits_behind_its_prompt():
    trees = (row("a" * 6, "one"), row("b", "three"), row("c" * 8, "x"))
    assert texts(mismatched(trees, lambda n: 8 - n)) == [("aaaaaa", "th"), ("b", "x")]


@pytest.mark.parametrize("n", [1, 2])
def test_without_a_mismatch_the_origin_is_zero(n):
    both = Models(*(models().reference, models().policy))
    batch = Batch(thumbs(True).trees * n)
    loss, metrics = loss_of(KTO(), both, batch)
    policy, reference, _ = told(both, batch)
    assert metrics["kl"] == 0
    assert loss == pytest.approx(1 - sigmoid(0.1 * (policy[0] - reference[0])), rel=1e-4)


def test_a_batch_of_one_kind_tells_nothing_of_the_other():
    _, metrics = loss_of(KTO(), models(), thumbs(False, False))
    assert "good_reward" not in metrics
    assert all(map(math.isfinite, metrics.values()))


def test_the_origin_is_that_of_the_whole_batch():
    """However it is cut: every micro-batch has the same, and the shares of all metrics sum to the whole's."""
    both, batch = models(), thumbs(True, False, True, False, False)
    objective = KTO()
    with torch.no_grad():
        prepared, total = objective.prepare(batch, both), batch.counts()
        cut = [objective.loss(both, micro, total) for micro in prepared.split(1)]
    whole, metrics = loss_of(objective, both, batch)
    assert len(cut) == 5
    assert sum(float(loss) for loss, _ in cut) == pytest.approx(whole, rel=1e-5)
    for name, value in metrics.items():
        assert sum(float(shares.get(name, 0)) for _, shares in cut) == pytest.approx(value, rel=1e-4), name


def test_long_answers_behind_long_prompts_stay_within_the_model():
    """GPT-2 has no place beyond its context: an answer that would reach there is cut."""
    both = Models(
        *(Policy(tiny.model("gpt2", seed=seed, max_position_embeddings=24), tiny.tokenizer()) for seed in (1, 2))
    )
    long_prompt = Tree((5,) * 20, (Branch((6,), (True,), 1.0),))
    long_answer = Tree((7,), (Branch((8,) * 20, (True,) * 20, 0.0),))
    strays = mismatched((long_prompt, long_answer), both.policy.room)
    assert [len(tree.branches[0].tokens) for tree in strays] == [both.policy.room(20), 1]
    assert both.policy.room(20) < 20
    _, metrics = loss_of(KTO(), both, Batch((long_prompt, long_answer)))
    policy, reference, _ = told(both, Batch(strays))
    assert metrics["kl"] == pytest.approx(max(0.0, (sum(policy) - sum(reference)) / 2), rel=1e-4)


def test_the_reference_gets_no_gradient():
    assert_the_reference_gets_no_gradient(KTO(), thumbs(True, False))


@pytest.mark.slow
def test_it_turns_preferences_around(workshop):
    """Of a file of pairs, whose halves are good and bad answers, and over several epochs: the reference is asked again of
    the rows, and of answers that are in no row."""
    final = assert_it_turns_preferences_around(workshop, "kto", learning_rate=1e-2, epochs=20)
    assert final["good_reward"] > 0 > final["bad_reward"]


def test_thumbs_alone_are_enough(workshop):
    """Answers to different questions, no two of them a pair."""
    rows = [
        {"prompt": pair["prompt"], "completion": pair["chosen" if i % 2 else "rejected"], "label": bool(i % 2)}
        for i, pair in enumerate(PAIRS)
    ]
    made = workshop.run("kto", workshop.model(), workshop.rows(*rows), learning_rate=1e-2, steps=20, batch_size=4)
    assert made.facts["final"]["good_reward"] > made.facts["final"]["bad_reward"] + 0.5
