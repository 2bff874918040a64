"""What is watched decides as it should, a stopped run decides as one that was not, and replay stands in every batch."""

import math

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.engine.anchors import Anchors, fisher
from posttrain.engine.guarding import Forget, Guarding, Keep, StopEarly
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.engine.near import Near
from posttrain.engine.source import FromRows, Replayed
from posttrain.engine.watch import Budget, Patience, Watch
from posttrain.functional.layout import Tree
from posttrain.methods.objectives.sft import SFT
from posttrain.models.policy import Models, Policy
from posttrain.schema.errors import Stopped
from posttrain.schema.settings import input_of, inputs, keyed, problems
from tests import tiny

ROWS, GENERAL = tiny.trees(8, 1, seed=3), tiny.trees(6, 1, seed=8)


def models() -> Models:
    return Models(Policy(tiny.model(seed=1), tiny.tokenizer(), layout="packed"))


def weights(of: Models) -> list[torch.Tensor]:
    return [p.detach().clone() for p in of.policy.trainable()]


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def budget(at_most: float = 0.02, then: str = "back_off", every: int = 2) -> Budget:
    return Budget(GENERAL, at_most, every, then=then)  # type: ignore[arg-type]


def test_a_budget_judges_perplexity_against_the_start() -> None:
    rule = budget(at_most=0.05)
    assert rule.judge(1.0, 0) == "good"
    assert rule.judge(1.0 + math.log(1.049), 2) == "good"
    assert rule.judge(1.0 + math.log(1.051), 4) == "back off"
    facts = rule.facts(models())
    assert (facts["crossed_at"], facts["at_most"]) == ([4], 0.05)
    assert facts["general"] == pytest.approx({"before": math.e, "after": math.e * 1.049})
    assert "2.72 -> 2.86" in rule.told(4)
    assert rule.told(6) == ""
    stopping = budget(at_most=0.05, then="stop")
    assert [stopping.judge(1.0, 0), stopping.judge(9.0, 2)] == ["good", "stop"]


def test_patience_waits_for_a_lower_loss() -> None:
    rule = Patience(ROWS, SFT(), every=1, patience=2)
    assert [rule.judge(v, i) for i, v in enumerate([5.0, 4.0, 4.5, 3.9, 3.95, 3.9])] == [
        "good", "good", "bad", "good", "bad", "stop",
    ]  # fmt: skip
    assert rule.facts(models()) == {"best_step": 3, "held_out_loss": 3.9}


def test_what_is_watched_is_loss_by_hand() -> None:
    both = models()
    n = sum(tree.branches[0].n_trained() for tree in GENERAL)
    one_by_one = -sum(float(both.policy.score(_alone(tree)).sum()) for tree in GENERAL) / n
    rule = Budget(GENERAL, 0.02, 2, "stop", learnt=GENERAL)
    rule.judge(rule.look(both), 0)
    assert rule.state["kept"] == pytest.approx(one_by_one, abs=1e-5)
    perplexity = pytest.approx({"before": math.exp(one_by_one), "after": math.exp(one_by_one)}, rel=1e-4)
    assert rule.facts(both)["learnt"] == perplexity
    assert "learnt" not in Budget(GENERAL, 0.02, 2, "stop", learnt=tiny.trees(3, 2)).facts(both)
    assert Patience(GENERAL, SFT(), 1, 1).look(both) == pytest.approx(one_by_one, abs=1e-5)


def _alone(tree: Tree) -> Batch:
    return Batch((tree,))


def _knowing(folder) -> Models:
    """Models that have learnt the general rows, so that they can forget them."""
    made = models()
    fit(made, SFT(), FromRows(GENERAL, 6, 0), Steps(30, 1e-2), Job(folder, folder / "none"))
    return made


@pytest.mark.slow
def test_a_budget_holds_and_stops_at_the_last_good_weights(tmp_path) -> None:
    free, held, stopped = (_knowing(tmp_path) for _ in range(3))
    start = budget().look(free)
    steps, source = Steps(12, 2e-2), FromRows(ROWS, 4, 0)
    fit(free, SFT(), source, steps, Job(tmp_path, tmp_path))
    assert budget().look(free) - start > math.log(1.02)
    rule, alerts = budget(), []
    job = Job(tmp_path, tmp_path / "held", emit=lambda kind, **f: alerts.append(f) if kind == "alert" else None)
    watch = Watch([rule])
    fit(held, SFT(), source, steps, job, watch)
    assert budget().look(held) - start <= math.log(1.02) + 1e-6
    assert watch.times == 0.5 ** len(rule.state["crossed"]) < 1
    assert "half the learning rate" in alerts[0]["title"]
    ending = Watch([budget(then="stop")])
    fit(stopped, SFT(), source, steps, Job(tmp_path, tmp_path / "ended"), ending)
    assert ending.ended
    assert budget().look(stopped) == pytest.approx(ending.rules[0].state["kept"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_a_stopped_run_decides_as_one_that_was_not(tmp_path, stop_after: int) -> None:
    steps, source = Steps(10, 2e-2), FromRows(ROWS, 4, 0)

    def rules() -> Watch:
        return Watch([budget(), Patience(ROWS[:3], SFT(), every=3, patience=3)])

    def train(into: Models, scratch, watch: Watch, **job) -> None:
        scratch.mkdir(exist_ok=True)
        anchors = Anchors(into.policy, l2=0.01, ewc=0.1, general=GENERAL, scratch=scratch)
        replayed = Replayed.beside(source, tiny.trees(4, 1, seed=5), 0.5, watch)
        fit(into, Near(SFT(), models().policy, 0.01), replayed, steps, Job(tmp_path, scratch, **job), watch, anchors)

    whole, stopped, parts = (_knowing(tmp_path) for _ in range(3))
    first = rules()
    train(whole, tmp_path / "whole", first)
    seen: list[int] = []
    with pytest.raises(Stopped):
        train(
            stopped, tmp_path / "parts", rules(),
            emit=lambda kind, **f: seen.append(1) if kind == "progress" else None, stop=lambda: len(seen) >= stop_after,
        )  # fmt: skip
    second = rules()
    train(parts, tmp_path / "parts", second)
    assert same(weights(whole), weights(parts))
    assert [rule.state for rule in first.rules] == [rule.state for rule in second.rules]
    assert first.backed_off == second.backed_off > 0


def test_the_fisher_information_of_a_resumed_run_is_the_one_it_began_with(tmp_path) -> None:
    begun, resumed = models(), models()
    before = Anchors(begun.policy, ewc=1.0, general=GENERAL, scratch=tmp_path)
    after = Anchors(resumed.policy, ewc=1.0, general=ROWS, scratch=tmp_path)  # other rows: they are not looked at
    assert same(before._fisher, after._fisher)
    assert not same(before._fisher, fisher(models().policy, ROWS))
    (tmp_path / "fisher.pt").write_bytes(b"cut off")
    assert same(Anchors(models().policy, ewc=1.0, general=GENERAL, scratch=tmp_path)._fisher, before._fisher)


def test_the_budget_has_the_last_word(tmp_path) -> None:
    """Stopping early goes back to its best weights, which the budget has not seen: it looks at them too."""
    made = _knowing(tmp_path)
    start = budget().look(made)
    rules = [budget(at_most=0.05, every=5), Patience(ROWS, SFT(), every=1, patience=3)]
    fit(made, SFT(), FromRows(ROWS, 4, 0), Steps(4, 2e-2), Job(tmp_path, tmp_path / "last"), Watch(rules))
    assert rules[1].state["best_at"] > 0
    assert budget().look(made) - start <= math.log(1.05) + 1e-6


def test_replayed_rows_are_their_share_of_every_batch() -> None:
    watch = Watch()
    source = Replayed.beside(FromRows(ROWS, 4, 0), GENERAL, 0.5, watch)
    both = models()
    seen = [tree for step in range(3) for tree in source.draw(step, both).trees[4:]]
    n_general = [sum(tree in GENERAL for tree in source.draw(step, both).trees) for step in range(3)]
    assert n_general == [4, 2, 4]  # the second epoch of six rows begins after two steps
    assert set(seen) == set(GENERAL)
    assert source.draw(1, both) == source.draw(1, both)
    watch.backed_off = 1
    assert [tree in GENERAL for tree in source.draw(0, both).trees].count(True) == 8
    assert source.draw(0, both).trees[:8] == source.draw(0, both).trees[:8]
    watch.backed_off = 9
    assert len(source.draw(0, both).trees) == 4 + 4 * 4
    assert Replayed.beside(FromRows(ROWS, 7, 0), GENERAL, 0.3, watch).general[0].batch_size == 3


def test_anchors_pull_by_hand() -> None:
    both = models()
    p = both.policy.trainable()[0]
    anchors = Anchors(both.policy, l2=0.5, ewc=2.0, general=GENERAL[:2])
    information = fisher(both.policy, GENERAL[:2])[0]
    with torch.no_grad():
        p += 0.25
    for each in both.policy.trainable():
        each.grad = torch.ones_like(each)
    anchors.pull()
    assert torch.allclose(p.grad, 1 + 0.5 * 0.25 + 2.0 * information * 0.25, atol=1e-6)
    assert torch.equal(both.policy.trainable()[1].grad, torch.ones_like(both.policy.trainable()[1]))


def test_fisher_information_is_the_mean_squared_gradient_of_a_row() -> None:
    policy = models().policy
    squares = []
    for tree in GENERAL[:3]:
        policy.logps(_alone(tree)).sum().backward()
        squares.append([p.grad.square() for p in policy.trainable()])
        for p in policy.trainable():
            p.grad = None
    for found, *rows in zip(fisher(policy, GENERAL[:3]), *squares, strict=True):
        assert torch.allclose(found, sum(rows) / 3, rtol=1e-4)
    assert all(p.grad is None for p in policy.trainable())


def test_options_are_read_wired_and_keyed() -> None:
    given = Guarding(keep={"replay": {"data": "general.txt", "share": 0.2}}, forget={"on": "held.txt", "at_most": "5%"})
    assert given.forget is not None
    assert given.forget.at_most == 0.05
    assert set(inputs(Guarding)) == {"keep.replay.data", "forget.on", "stop_early.on"}
    assert input_of(given, "keep.replay.data")[0].path == "general.txt"
    assert input_of(given, "stop_early.on") is None
    assert keyed(given)["forget"] == {"at_most": 0.05, "every": 20, "then": "back_off"}
    assert "data" not in keyed(given)["keep"]["replay"]
    assert (Keep().l2, StopEarly(on="a").patience, Forget(on="a").at_most) == (0.0, 3, 0.05)
    (_, problem), *_ = problems(Guarding, {"keep": {"ewc": 1.0}})
    assert "give `replay: {data: …}`" in problem.message
