"""The loop: a stopped or killed run goes on to the same bytes, divergence is said, rates follow their schedule."""

import math

import pytest
import torch

from posttrain.engine.checkpoint import NAME
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.engine.source import FromRows
from posttrain.methods.objectives.dpo import DPO
from posttrain.methods.objectives.sft import SFT
from posttrain.models.policy import Models, Policy
from posttrain.schema.errors import Diverged, Stopped
from tests import tiny


def models() -> Models:
    return Models(*(Policy(tiny.model(seed=seed), tiny.tokenizer(), layout="packed") for seed in (1, 2)))


def weights(both: Models) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in both.policy.trainable())


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "n_branches"), [(SFT(), 1), (DPO(), 2)])
@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_stopped_run_goes_on_to_the_same_bytes(objective, n_branches, stop_after, tmp_path):
    source, steps = FromRows(tiny.trees(9, n_branches), 4, seed=7), Steps(7, 1e-3)
    whole = models()
    final = fit(whole, objective, source, steps, Job(tmp_path, _made(tmp_path / "whole")))

    seen: list[int] = []
    scratch = _made(tmp_path / "parts")
    job = Job(tmp_path, scratch, emit=lambda kind, **f: seen.append(f["step"]), stop=lambda: len(seen) == stop_after)
    with pytest.raises(Stopped, match=f"after step {stop_after} of 7"):
        fit(models(), objective, source, steps, job)
    resumed = models()
    again = fit(resumed, objective, source, steps, Job(tmp_path, scratch))
    assert weights(resumed) == weights(whole)
    assert again == final


def test_a_torn_new_checkpoint_is_not_used(tmp_path):
    source, steps = FromRows(tiny.trees(8, 1), 4, seed=7), Steps(6, 1e-3, checkpoint_seconds=0)
    whole, again = models(), models()
    fit(whole, SFT(), source, steps, Job(tmp_path, tmp_path))
    (tmp_path / f"{NAME}.new").write_bytes(b"half a checkpoint")
    fit(again, SFT(), source, steps, Job(tmp_path, tmp_path))
    assert weights(again) == weights(whole)


def test_divergence_is_said_with_a_cure(tmp_path):
    both = models()
    with torch.no_grad():
        next(iter(both.policy.trainable())).fill_(float("nan"))
    with pytest.raises(Diverged, match="Lower `learning_rate`"):
        fit(both, SFT(), FromRows(tiny.trees(8, 1), 8, 0), Steps(2, 1e-3), Job(tmp_path, tmp_path))


def test_rates_by_hand():
    linear = Steps(10, 1.0, "linear", warmup=0.2)
    assert [linear.rate(step) for step in (0, 1, 2, 6)] == [0.5, 1.0, 1.0, 0.5]
    cosine = Steps(12, 1.0, "cosine", warmup=0.0)
    assert cosine.rate(1 + 11 // 2) == pytest.approx((1 + math.cos(math.pi * 5 / 11)) / 2)
    assert {Steps(10, 1.0, "constant", warmup=0).rate(step) for step in range(10)} == {1.0}


def test_every_row_is_drawn_once_an_epoch_in_another_order():
    source = FromRows(tiny.trees(10, 1), 4, seed=1)
    epochs = [[tree for step in range(3 * e, 3 * e + 3) for tree in source.draw(step, None).trees] for e in range(2)]
    assert all(sorted(epoch, key=repr) == sorted(source.trees, key=repr) for epoch in epochs)
    assert epochs[0] != epochs[1]


def _made(folder):
    folder.mkdir()
    return folder
