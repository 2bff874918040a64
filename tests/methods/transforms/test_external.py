"""A program in an environment of its own: what it saved is what it made, or it is not called good."""

import os
import sys
from pathlib import Path

import pytest

from posttrain.engine import outside
from posttrain.schema.errors import MachineError, ModelError, PosttrainError, Stopped, UsageError
from tests.methods.transforms.test_gptq import TEXTS

FEW = {"sequences": 4, "length": 16, "dtype": "float32"}
PYTHON = os.environ.get("LLM_COMPRESSOR_PYTHON")
MODELOPT = os.environ.get("MODELOPT_PYTHON")

SAVES = """
import numpy, torch
from transformers import AutoModelForCausalLM

@torch.no_grad()
def rounded(told, logits):
    model = AutoModelForCausalLM.from_pretrained(told["model"], dtype=torch.float32)
    {begin}
    numpy.save(told["before"], logits(model, told["asked"]))
    {change}
    numpy.save(told["after"], logits(model, told["asked"]))
    {lose}
    model.save_pretrained(told["made"])
    return {{"program": "a program 1.0", "transformers": "5", "seconds": 0.0}}
"""
CHANGED = "model.lm_head.weight.mul_(1.1)"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a script in the place of the program."""

    def put(text: str) -> None:
        (tmp_path / "llm_compressor.py").write_text(text)
        monkeypatch.setattr(outside, "PROGRAMS", tmp_path)

    return put


def made(workshop, python: str = sys.executable, family: str = "llama", **options):
    group = {} if options.get("activations") else {"group": 16}  # 32 columns have no 128
    model, rows = workshop.model(family=family), workshop.rows(*TEXTS)
    return workshop.run("external", model, rows, python=python, **FEW | group | options)


@pytest.mark.slow
def test_what_a_program_made_is_read_and_compared(workshop, program):
    program(SAVES.format(begin="", change=CHANGED, lose=""))
    facts = made(workshop).facts
    assert facts["program"] == "a program 1.0"
    assert facts["before"]["kl"] < 1e-9
    assert facts["parity"]["kl"] < 1e-9
    assert facts["difference"]["kl"] > 1e-6


@pytest.mark.slow
def test_a_model_that_was_saved_otherwise_than_made_is_refused(workshop, program):
    program(SAVES.format(begin="", change="", lose="model.model.layers[0].mlp.down_proj.weight.zero_()"))
    with pytest.raises(ModelError, match="do not agree on what it made, read back here"):
        made(workshop)


@pytest.mark.slow
def test_a_program_that_computes_another_model_is_refused(workshop, program):
    program(SAVES.format(begin="model.model.norm.weight.mul_(2)", change="", lose=""))
    with pytest.raises(ModelError, match="the model, before it changed anything"):
        made(workshop)


def test_a_program_that_fails_has_the_last_word(workshop, program):
    program("raise SystemExit('the cholesky decomposition failed')")
    with pytest.raises(PosttrainError, match=r"failed: the cholesky decomposition failed\. All that it printed"):
        made(workshop)


def test_a_package_that_is_not_there_is_named(workshop):
    with pytest.raises(MachineError, match=r"No module named 'llmcompressor'.*-m pip install llmcompressor"):
        made(workshop)


def test_a_python_that_is_not_there(workshop):
    with pytest.raises(MachineError, match=r"python3 -m venv ENV && ENV/bin/pip install llmcompressor"):
        made(workshop, python="nowhere/bin/python")


def test_a_program_by_itself_is_told_what_it_can_do(workshop):
    def stage(**options):
        found = workshop.stage("external", ["some"], python="p", **options)
        return found.bits, found.group, found.solver, found.makes_form("dense")

    assert stage() == (4, 128, "gptq", "compressed-tensors")
    assert stage(program="modelopt") == (4, 128, "awq", "modelopt")
    assert stage(program="modelopt", activations=8) == (8, None, "smoothquant", "modelopt")


@pytest.mark.parametrize(
    "options",
    [
        {"program": "modelopt", "solver": "gptq"},
        {"program": "modelopt", "solver": "smoothquant"},
        {"program": "modelopt", "bits": 8},
        {"program": "modelopt", "group": None},
        {"program": "modelopt", "activations": 8, "group": 128},
        {"program": "modelopt", "activations": 8, "bits": 4},
        {"program": "modelopt", "activations": 8, "solver": "awq"},
        {"solver": "awq"},
    ],
)
def test_what_a_program_has_no_use_for_is_refused(workshop, options):
    with pytest.raises(ValueError, match=r"leave out `bits`, `group` and `solver`|write that, or `solver: gptq`"):
        workshop.stage("external", ["some"], python="p", **options)


def test_groups_that_are_not_whole_are_told_before_the_work(workshop):
    for program in ("modelopt", "llm_compressor"):
        with pytest.raises(UsageError, match=r"Groups of 128 do not divide the 32 columns of .*q_proj"):
            made(workshop, program=program, group=128)


def test_matrices_that_are_kept_transposed_are_told_before_the_work(workshop):
    with pytest.raises(ModelError, match="hold no plain matrix"):
        made(workshop, family="gpt2", program="modelopt", activations=8)


def test_it_is_stopped(tmp_path, program):
    program("import time\ntime.sleep(60)")
    job = outside.Job(tmp_path / "folder", tmp_path, stop=lambda: True)
    with pytest.raises(Stopped, match="The same command begins it again"):
        outside.run_outside("llm_compressor", sys.executable, {"model": "m"}, job)


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="LLM_COMPRESSOR_PYTHON names no environment with llm-compressor")
@pytest.mark.parametrize("solver", ["gptq", "nearest"])
def test_llm_compressor_itself(workshop, solver):
    found = made(workshop, str(Path(PYTHON or "")), solver=solver, bits=8, group=None)
    assert found.facts["parity"]["kl"] < 1e-9, found.facts
    assert 1e-9 < found.facts["difference"]["kl"] < 1e-2


@pytest.mark.slow
@pytest.mark.skipif(MODELOPT is None, reason="MODELOPT_PYTHON names no environment with Model Optimizer")
@pytest.mark.parametrize(
    "options",
    [
        {"activations": 8},
        {"activations": 8, "solver": "nearest", "dtype": "bfloat16"},
        {"group": 16, "dtype": "bfloat16"},
        {"group": 16, "solver": "nearest"},
    ],
)
def test_model_optimizer_itself(workshop, options):
    """What a tiny model loses is no more than half a nat: its inputs on drawn tokens are larger than those of the few letters."""
    found = made(workshop, str(Path(MODELOPT or "")), program="modelopt", **options, sequences=16, length=64)
    assert found.form == "modelopt"
    assert found.facts["parity"]["kl"] < 1e-6, found.facts
    assert 1e-6 < found.facts["difference"]["kl"] < 1
