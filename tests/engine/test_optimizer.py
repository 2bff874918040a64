"""Optimizers: the step by hand, eight bits close to it and small, and a resumed run's bytes those of a whole one."""

import sys

import pytest
import torch

from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.engine.optimizer import make_optimizer
from posttrain.engine.source import FromRows
from posttrain.methods.objectives.sft import SFT
from posttrain.models.policy import Models, Policy
from posttrain.schema.errors import MissingExtra, Stopped
from tests import tiny


def test_the_first_step_by_hand():
    """The corrected moments of a first step are g and g^2: w goes down by the rate times the sign, and by its decay."""
    weight = torch.nn.Parameter(torch.tensor([2.0, -3.0]))
    optimizer = make_optimizer("adamw", [weight], 0.1, weight_decay=0.5)
    weight.grad = torch.tensor([0.7, -0.2])
    optimizer.step()
    assert weight.tolist() == pytest.approx([2 - 0.1 * 0.5 * 2 - 0.1, -3 + 0.1 * 0.5 * 3 + 0.1], abs=1e-5)


def stepped(kind: str, n: int) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """A weight of 64 x 128 after n steps down a bowl whose axes are unlike."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 128, generator=draw))
    steep = torch.rand(64, 128, generator=draw) + 0.1
    optimizer = make_optimizer(kind, [weight], 0.02)
    for _ in range(n):
        weight.grad = (steep * weight).detach()
        optimizer.step()
    return weight.detach(), optimizer


def held(optimizer: torch.optim.Optimizer) -> int:
    return sum(
        x.numel() * x.element_size() for state in optimizer.state.values() for x in state.values() if torch.is_tensor(x)
    )


def test_eight_bits_go_the_same_way_in_a_quarter_of_the_memory():
    pytest.importorskip("bitsandbytes")
    (wide, large), (narrow, small) = stepped("adamw", 50), stepped("adamw_8bit", 50)
    start = stepped("adamw", 0)[0]
    assert (narrow - wide).norm() < 0.1 * (wide - start).norm()
    assert narrow.norm() < 0.5 * start.norm()
    assert held(small) < 0.3 * held(large)


def models() -> Models:
    return Models(Policy(tiny.model(hidden_size=64, intermediate_size=96, seed=1), tiny.tokenizer(), layout="packed"))


def weights(trained: Models) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in trained.policy.trainable())


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stopped_run_in_eight_bits_goes_on_to_the_same_bytes(stop_after: int, tmp_path):
    pytest.importorskip("bitsandbytes")
    source, steps = FromRows(tiny.trees(9, 1), 4, seed=7), Steps(5, 1e-3, optimizer="adamw_8bit")
    whole = models()
    bits = {p.numel() >= 4096 for p in whole.policy.trainable()}
    assert bits == {True, False}, "both kinds of state are there"
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    final = fit(whole, SFT(), source, steps, Job(tmp_path, tmp_path / "whole"))

    seen: list[int] = []
    job = Job(tmp_path, tmp_path / "parts", emit=lambda kind, **f: seen.append(1), stop=lambda: len(seen) == stop_after)
    with pytest.raises(Stopped):
        fit(models(), SFT(), source, steps, job)
    resumed = models()
    assert fit(resumed, SFT(), source, steps, Job(tmp_path, tmp_path / "parts")) == final
    assert weights(resumed) == weights(whole)
    other = models()
    fit(other, SFT(), source, Steps(5, 1e-3), Job(tmp_path, tmp_path / "none"))
    assert weights(other) != weights(whole), "the option has an effect"


def test_without_the_package_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim.adamw", None)
    with pytest.raises(MissingExtra, match=r"pip install 'posttrain\[bits\]'"):
        make_optimizer("adamw_8bit", [torch.nn.Parameter(torch.ones(2))], 1e-3)
