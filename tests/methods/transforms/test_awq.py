"""AWQ on tiny models: less change than rounding to nearest, and matrices that could not be scaled are named."""

import json

import pytest

from tests.methods.transforms.test_gptq import FEW, TEXTS


def report(made) -> dict[str, dict]:
    return {each["name"]: each for each in json.loads((made.path / "compression.json").read_text())}


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["nearest", "gptq"])
def test_it_is_closer_than_rounding_to_nearest(workshop, solver):
    made = workshop.run("awq", workshop.model(), workshop.rows(*TEXTS), bits=3, solver=solver, **FEW)
    assert made.form == "compressed-tensors"
    assert made.facts["error"] < (0.9 if solver == "nearest" else 0.6) * made.facts["error_nearest"]


def test_what_is_not_scaled_is_named(workshop):
    found = report(workshop.run("awq", workshop.model(), workshop.rows(*TEXTS), **FEW))
    assert {name.rpartition(".")[2] for name, each in found.items() if each["note"]} == {"o_proj"}


def test_a_group_of_which_one_is_kept_is_not_scaled(workshop):
    found = report(
        workshop.run("awq", workshop.model(), workshop.rows(*TEXTS), overrides={"*.k_proj": {"keep": True}}, **FEW)
    )
    assert {name.rpartition(".")[2] for name, each in found.items() if each["note"]} == {"o_proj", "q_proj", "v_proj"}


@pytest.mark.slow
def test_both_together_are_closer_than_scales_alone(workshop):
    rows, model = workshop.rows(*TEXTS), workshop.model()
    kl = {}
    for name, options in (("nearest", {}), ("gptq", {"solver": "gptq"})):
        made = workshop.run("awq", model, rows, bits=3, **FEW | options)
        found = workshop.run("fidelity", made, rows, inputs={"against": model}, against="base")
        kl[name] = json.loads((found.path / "findings.json").read_text())["metrics"]["kl"]["value"]
    assert kl["gptq"] < kl["nearest"]
