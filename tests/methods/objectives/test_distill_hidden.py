"""Hidden states brought to the teacher's: by their definition in every layout, across depths and widths, for any cut."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from posttrain.data.batch import Batch
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.engine.method import stage_class
from posttrain.engine.near import Near
from posttrain.engine.source import FromRows
from posttrain.functional.hidden_states import least_squares, paired, states_apart
from posttrain.methods.objectives.distill import Distill
from posttrain.models.bridge import bridge
from posttrain.models.load import load_weights
from posttrain.models.policy import Models, Policy
from posttrain.schema.errors import ModelError, Stopped
from tests import tiny

TREES = tiny.trees(8, 1, seed=2)
ROWS = [{"prompt": f"say {word}", "completion": word[::-1]} for word in ("abc", "xyz", "no", "tuv", "go", "pqr")]
FAST = {"learning_rate": 1e-2, "steps": 4, "batch_size": 3}


def policy(seed: int = 1, layout: str = "packed", **changes) -> Policy:
    return Policy(tiny.model(seed=seed, **changes), tiny.tokenizer(), layout=layout)


def states(of: Policy, trees=TREES) -> list[torch.Tensor]:
    """(N, D) of every layer, by transformers alone."""
    found = []
    for tree in trees:
        (branch,) = tree.branches
        made = of.model(torch.tensor([[*tree.prompt, *branch.tokens]]), output_hidden_states=True).hidden_states[1:]
        found.append([layer[0, len(tree.prompt) - 1 : -1][torch.tensor(branch.trained)] for layer in made])
    return [torch.cat(layer) for layer in zip(*found, strict=True)]


def slope(of: Policy) -> torch.Tensor:
    return torch.cat([x.grad.flatten() for x in of.trainable() if x.grad is not None])


def test_by_hand():
    """Directions at a right angle are 2 apart, the same 0 whatever their length, opposite ones 4."""
    ours = [torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 3.0], [1.0, 0.0]])]
    theirs = [torch.tensor([[9.0, 9.0], [9.0, 9.0]]), torch.tensor([[0.0, 5.0], [7.0, 0.0]])] * 2
    theirs[3] = torch.tensor([[0.0, 1.0], [-4.0, 0.0]])
    assert states_apart(ours, theirs).tolist() == pytest.approx([(2 + 0) / 2, (0 + 4) / 2])
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0], [0.0, 0.0]])  # a quarter turn, into three dimensions
    wide = [F.pad(g, (0, 1)) for g in theirs]
    assert states_apart(ours, wide, [turn, turn]).tolist() == pytest.approx([(0 + 2) / 2, (2 + 2) / 2])


def test_layers_are_paired_evenly_and_the_last_ones_meet():
    assert paired(2, 4) == [1, 3]
    assert paired(4, 4) == [0, 1, 2, 3]
    assert paired(3, 2) == [0, 0, 1]
    assert paired(12, 32)[-1] == 31 and len(set(paired(12, 32))) == 12


def test_the_map_that_begins_it_is_the_one_that_the_states_have():
    draw = torch.Generator().manual_seed(0)
    true, h = torch.randn(7, 5, generator=draw), torch.randn(4000, 5, generator=draw)
    found = least_squares(h, h @ true.t())
    assert states_apart([h], [h @ true.t()], [found]).mean() < 0.02


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("layout", ["packed", "padded", "logits"])
def test_loss_and_slope_are_those_of_whole_states(layout, family):
    def made(n: int, **changes) -> Policy:
        return Policy(tiny.model(family, seed=n, **changes), tiny.tokenizer(), layout=layout)

    of, plain = Models(made(1), teacher=made(2, num_hidden_layers=4)), made(1)
    batch = Batch(TREES)
    loss, metrics = Distill(hidden=0.7).loss(of, batch, batch.counts())
    bare, _ = Distill().loss(Models(plain, teacher=of.teacher), batch, batch.counts())
    theirs = [layer.detach() for layer in states(of.teacher)]
    ours = states(plain)
    by_definition = sum(
        (2 - 2 * F.cosine_similarity(h, theirs[t])).mean() / 2 for h, t in zip(ours, (1, 3), strict=True)
    )
    assert metrics["states_apart"].item() == pytest.approx(by_definition.item(), rel=1e-4)
    loss.backward()
    (bare + 0.7 * by_definition).backward()
    expected = slope(plain)
    assert (slope(of.policy) - expected).norm() < 1e-4 * expected.norm()


def test_the_pull_to_the_start_reads_the_same_states(monkeypatch):
    """One forward pass of the policy serves both."""
    of, start = Models(policy(1), teacher=policy(2)), policy(3)
    asked, all_of = [], of.policy._expects
    monkeypatch.setattr(of.policy, "_expects", lambda *given: asked.append(given) or all_of(*given))
    batch = Batch(TREES)
    Near(Distill(hidden=0.1), start, 0.5).loss(of, batch, batch.counts())
    assert len(asked) == 1


def across() -> Models:
    """A student that is narrower than its teacher, and flatter."""
    student, teacher = policy(1), policy(2, hidden_size=64, num_hidden_layers=3)
    return Models(student, teacher=teacher, bridge=bridge(student, teacher, TREES))


def test_a_bridge_begins_better_than_nothing_and_is_none_between_equals():
    of, batch = across(), Batch(TREES)
    assert [tuple(w.shape) for w in of.bridge.maps] == [(64, 32), (64, 32)]
    found = Distill(hidden=1.0).loss(of, batch, batch.counts())[1]["states_apart"]
    assert 0 < found < 1  # two directions that nothing connects are 2 apart
    assert bridge(policy(1), policy(2, num_hidden_layers=5), TREES) is None


def test_a_bridge_is_learnt_beside_and_the_cut_of_a_batch_does_not_matter(tmp_path):
    ends = []
    for micro_tokens in (10**6, 60, 1):
        of = across()
        began = of.bridge.maps[0].detach().clone()
        steps, scratch = Steps(15, 1e-3, micro_tokens=micro_tokens), tmp_path / str(micro_tokens)
        final = fit(of, Distill(hidden=0.5), FromRows(TREES, 4, 0), steps, Job(tmp_path, scratch))
        assert {"bridge_grad_norm", "grad_norm"} <= final.keys() and "critic_grad_norm" not in final
        assert (of.bridge.maps[0] - began).abs().max() > 1e-3
        ends.append(torch.cat([p.detach().flatten() for p in of.trained().values()]))
    for end in ends[1:]:
        assert (ends[0] - end).abs().max() < 1e-4


def wide(workshop):
    folder = workshop.folder / "wide"
    tiny.model(seed=5, hidden_size=64, num_hidden_layers=3).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return workshop.store.model(str(folder))


def test_a_stopped_run_goes_on_with_its_bridge_and_leaves_none_behind(workshop):
    rows, model, teacher = workshop.rows(*ROWS), workshop.model(), wide(workshop)
    stage = workshop.stage("distill", rows, teacher="given", hidden=0.5, **FAST)

    def run(name: str, stop=lambda: False) -> dict[str, bytes]:
        made, scratch = workshop.folder / f"{name}-made", workshop.folder / f"{name}-scratch"
        for folder in (made, scratch):
            folder.mkdir(exist_ok=True)
        stage.run(Job(made, scratch, stop=stop), model=model, data=rows, teacher=teacher)
        return {path.name: path.read_bytes() for path in Path(made).iterdir()}

    whole = run("whole")
    looks = iter([False, True])
    with pytest.raises(Stopped):
        run("stopped", lambda: next(looks))
    assert run("stopped") == whole
    assert not [name for name in whole if "bridge" in name]


@pytest.mark.slow
def test_states_come_nearer_than_by_the_divergence_alone(workshop):
    hard = {"learning_rate": 5e-3, "steps": 60, "batch_size": 6, "schedule": "constant"}
    final = {}
    for weight in (0.0001, 1.0):
        made = workshop.run(
            "distill", workshop.model(), workshop.rows(*ROWS), inputs={"teacher": wide(workshop)}, teacher="given",
            hidden=weight, **hard,
        )  # fmt: skip
        final[weight] = made.facts["final"]
    assert final[1.0]["states_apart"] < 0.5 * final[0.0001]["states_apart"]
    assert all(math.isfinite(each["divergence"]) for each in final.values())


@pytest.mark.slow
def test_prompts_without_answers_begin_a_bridge_too(workshop):
    prompts = workshop.rows(*({"prompt": row["prompt"]} for row in ROWS))
    options = {**FAST, "on_policy": 1, "max_new_tokens": 4, "hidden": 0.1, "adapter": "lora"}
    made = workshop.run(
        "distill", workshop.model(), prompts, inputs={"teacher": wide(workshop)}, teacher="given", **options
    )
    assert "states_apart" in made.facts["final"] and made.form == "adapter"


def test_what_is_refused(workshop):
    with pytest.raises(ValidationError, match="leave one of them out"):
        stage_class("distill")(data="given", teacher="given", cache={}, hidden=0.1)
    pair = [Policy(tiny.encoder_decoder(seed=n), tiny.encoder_tokenizer()) for n in (1, 2)]
    with pytest.raises(ModelError, match="Leave `hidden` out"):
        bridge(*pair, TREES)


def test_layers_that_are_computed_again_show_the_same_states(workshop):
    rows, options = workshop.rows(*ROWS), {**FAST, "inputs": {"teacher": wide(workshop)}, "hidden": 0.5}
    found = []
    for again in (False, True):
        made = workshop.run("distill", workshop.model(), rows, teacher="given", gradient_checkpointing=again, **options)
        found.append(torch.nn.utils.parameters_to_vector(load_weights(made).parameters()))
    assert (found[0] - found[1]).abs().max() < 1e-5
