"""What every objective keeps, found by listing: its gradient does not depend on how a batch is cut or ordered."""

from dataclasses import dataclass, replace
from itertools import cycle

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.engine.anchors import Anchors
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit, step_shares
from posttrain.engine.method import Loss, Objective
from posttrain.engine.near import Near
from posttrain.engine.source import FromRows, Replayed
from posttrain.engine.watch import Budget, Patience, Watch
from posttrain.functional.divergence import plain_divergence
from posttrain.functional.layout import Tree
from posttrain.models.policy import Models, Policy
from posttrain.models.scorer import Scorer
from posttrain.schema.find import class_of, methods
from posttrain.schema.rows import Labelled, Pair, Prompt, Ranked
from tests import tiny

OBJECTIVES = [name for name, entry in methods().items() if entry.kind == "objective"]

GRADES = {Pair: [(1.0, 0.0)], Ranked: [(2.0, 1.0, 0.0)], Labelled: [(1.0,), (0.0,)], Prompt: [(None, None)]}
"""What the answers of a row are worth, by the shape of rows, for one row after the other; to a prompt there are two."""


def models(objective) -> Models:
    """What it trains, and another of the same kind."""
    kind, made = (Scorer, tiny.reward_model) if objective.scores else (Policy, tiny.model)
    both = [kind(made(seed=seed), tiny.tokenizer(), layout="packed") for seed in (1, 9)]
    critic = (
        Scorer(tiny.reward_model(seed=5), tiny.tokenizer(), layout="packed") if "critic" in objective.needs else None
    )
    teacher = Policy(tiny.model(seed=7), tiny.tokenizer(), layout="packed") if "teacher" in objective.needs else None
    return Models(*both, critic, teacher)


def forest(objective, n: int = 8, seed: int = 3) -> tuple[Tree, ...]:
    """Rows of the shape that it reads."""
    grades = GRADES.get(objective.reads, [(None,)])
    return tuple(
        Tree(tree.prompt, tuple(replace(b, grade=g) for b, g in zip(tree.branches, worth, strict=True)))
        for tree, worth in zip(tiny.trees(n, len(grades[0]), seed=seed), cycle(grades), strict=False)
    )


@dataclass(frozen=True)
class Judged:
    """A loss on the policy's own answers. Here these are drawn, and what they earned is made up of their tokens."""

    objective: Objective

    def prepare(self, batch, models):
        said = [sum(branch.tokens) for branch in batch.branches]
        finished = torch.tensor([float(n % 3 > 0) for n in said])
        earned = {
            "reward": torch.tensor([n % 7 / 7 for n in said]),
            "finished": finished,
            "penalty": 0.3 * (1 - finished),
        }
        n = len(batch)
        told = {"group": batch.tree_of, "longest": torch.full((n,), 12), "kl_coefficient": torch.full((n,), 0.1)}
        return self.objective.prepare(batch.having(**earned, **told), models)

    def loss(self, models, micro, total):
        return self.objective.loss(models, micro, total)


def learnt(objective) -> Loss:
    return Judged(objective) if objective.online else objective


def writes_or_skip(objective) -> None:
    if objective.scores:
        pytest.skip("what scores answers expects no tokens, whose divergence or perplexity could be watched")


def weights(models: Models) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in models.trained().values()])


def slope(policy: Policy) -> torch.Tensor:
    """The gradient of what it trains, in one row."""
    return torch.cat([p.grad.flatten() for p in policy.trainable() if p.grad is not None])


def gradient(objective, trees, micro_tokens) -> torch.Tensor:
    both = models(objective)
    step_shares(both, learnt(objective), Batch(tuple(trees)), micro_tokens)
    return slope(both.policy)


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    found = class_of(request.param)
    full = {
        name: 0.3 for name in ("nll", "label_smoothing", "centring", "labels", "hidden") if name in found.model_fields
    }  # every term of the loss
    return found(**full)


@pytest.mark.slow
def test_weights_after_twenty_steps_agree_over_micro_batches(objective, tmp_path):
    ends = []
    for micro_tokens in (10**6, 60, 1):
        both = models(objective)
        steps = Steps(20, 1e-3, micro_tokens=micro_tokens)
        source = FromRows(forest(objective), 4, seed=0)
        fit(both, learnt(objective), source, steps, Job(tmp_path, tmp_path / str(micro_tokens)))
        ends.append(weights(both))
    moved = (ends[0] - weights(models(objective))).abs().max()
    assert moved > 1e-3
    for end in ends[1:]:
        assert (ends[0] - end).abs().max() < 1e-4 * moved + 2e-5


@pytest.mark.slow
def test_everything_that_keeps_agrees_over_micro_batches(objective, tmp_path):
    """Replay, divergence from the start, both pulls, a budget and early stopping, all at once."""
    writes_or_skip(objective)
    if objective.online:
        pytest.skip("answers that are yet to be drawn cannot be replayed, and have no held-out loss: both are refused")
    ends = []
    for micro_tokens in (10**6, 60, 1):
        both, scratch = models(objective), tmp_path / str(micro_tokens)
        scratch.mkdir()
        trees, general = forest(objective), forest(objective, 5, seed=8)
        watch = Watch([Budget(general, 0.01, 2, "back_off"), Patience(trees[:3], objective, 3, 3)])
        steps, job = Steps(8, 1e-2, micro_tokens=micro_tokens), Job(tmp_path, scratch)
        near = Near(objective, models(objective).policy, 0.5, "reverse")
        source = Replayed.beside(FromRows(trees, 4, 0), general, 0.3, watch)
        fit(both, near, source, steps, job, watch, Anchors(both.policy, 0.1, 1.0, general))
        ends.append((weights(both), watch.backed_off))
    moved = (ends[0][0] - weights(models(objective))).abs().max()
    assert moved > 1e-3
    for end, backed_off in ends[1:]:
        assert (ends[0][0] - end).abs().max() < 1e-3 * moved + 2e-5
        assert backed_off == ends[0][1]


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_divergence_from_the_start_is_that_of_whole_logits(objective, direction):
    """And its gradient: what the objective alone has, and the divergence's by plain differentiation."""
    writes_or_skip(objective)
    trees, both = forest(objective), models(objective)
    bare = gradient(objective, trees, 10**6)
    start = models(objective).reference
    tally = step_shares(both, Near(learnt(objective), start, 0.7, direction), Batch(trees), 60)
    plain = models(objective)
    policy, reference = (
        torch.cat([_at_targets(of, tree) for branch in range(len(trees[0].branches)) for tree in _each(trees, branch)])
        for of in (plain.policy, start)
    )
    kl = plain_divergence(policy, reference.detach(), direction).mean()
    kl.backward()
    assert tally.sums["kl_to_start"] == pytest.approx(float(kl), rel=1e-4)
    expected = bare + 0.7 * slope(plain.policy)
    assert (slope(both.policy) - expected).norm() < 1e-4 * expected.norm()


def _each(trees, branch):
    return [Tree(tree.prompt, (tree.branches[branch],)) for tree in trees]


def _at_targets(policy, tree) -> torch.Tensor:
    """Logits that predict the trained tokens of an answer, by the model alone."""
    (branch,) = tree.branches
    logits = policy.model(torch.tensor([[*tree.prompt, *branch.tokens]])).logits[0, len(tree.prompt) - 1 : -1]
    return logits[torch.tensor(branch.trained)]


@pytest.mark.slow
def test_order_of_rows_does_not_matter(objective):
    """Where answers that are in no row are made of neighbours, the first row being the last one's: where they begin."""
    trees = forest(objective)
    again = (*trees[3:], *trees[:3]) if objective.strays else trees[::-1]
    one, other = gradient(objective, trees, 60), gradient(objective, again, 60)
    assert (one - other).norm() / one.norm() < 1e-5


def test_gradients_are_finite_and_not_nothing(objective):
    found = gradient(objective, forest(objective), 10**6)
    assert bool(found.isfinite().all())
    assert found.norm() > 1e-4


def test_settings_round_trip(objective):
    assert type(objective).model_validate(objective.model_dump(mode="json")) == objective
