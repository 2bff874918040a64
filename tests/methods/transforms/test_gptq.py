"""GPTQ on tiny models: closer than rounding to nearest, the same after a kill, and honest about what it could not solve."""

import json

import pytest
import torch

from posttrain.engine.job import Job
from posttrain.models.load import load_weights
from posttrain.schema.errors import DataError, Stopped
from tests import tiny

TEXTS = [{"text": " ".join(chr(97 + (n * k) % 26) * (1 + k % 3) for k in range(40))} for n in range(1, 30)]
FEW = {"sequences": 8, "length": 32, "group": 16, "dtype": "float32"}


@pytest.mark.slow
def test_it_is_closer_to_the_model_than_rounding_to_nearest(workshop):
    rows = workshop.rows(*TEXTS)
    model = workshop.model()
    made = {name: workshop.run(name, model, data, bits=3, **options) for name, data, options in (
        ("gptq", rows, FEW), ("rtn", (), {"group": 16, "dtype": "float32"}))}  # fmt: skip
    kl = {}
    for name, each in made.items():
        found = workshop.run("fidelity", each, rows, inputs={"against": model}, against="base")
        kl[name] = json.loads((found.path / "findings.json").read_text())["metrics"]["kl"]["value"]
    assert 0 < kl["gptq"] < 0.7 * kl["rtn"]
    assert made["gptq"].facts["error"] < 0.7 * made["gptq"].facts["error_nearest"]


def test_every_matrix_is_reported(workshop):
    made = workshop.run("gptq", workshop.model(), workshop.rows(*TEXTS), **FEW)
    report = json.loads((made.path / "compression.json").read_text())
    assert [each["name"] for each in report] == made.facts["rounded"]
    assert {each["tokens"] for each in report} == {8 * 32}
    assert all(0 < each["error"] < 1.05 * each["nearest"] for each in report)
    assert made.facts["fallback"] == {}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gptq", {}),
        ("gptq", {"correct": 0}),
        ("awq", {}),
        ("awq", {"solver": "gptq"}),
        ("smoothquant", {"solver": "gptq", "group": None}),
        ("prune", {}),
    ],
)
def test_a_killed_run_goes_on_behind_the_last_layer(workshop, tmp_path, method, options):
    model, rows = workshop.model(), workshop.rows(*TEXTS)
    few = {name: value for name, value in FEW.items() if method != "prune" or name in ("sequences", "length")}
    stage = workshop.stage(method, rows, **few | options)
    whole, parts, scratch = (tmp_path / name for name in ("whole", "parts", "scratch"))
    for folder in (whole, parts, scratch, tmp_path / "other"):
        folder.mkdir()
    stage.run(Job(whole, tmp_path / "other"), model=model, data=rows)
    with pytest.raises(Stopped, match="Stopped after layer 1 of 2"):
        stage.run(Job(parts, scratch, stop=lambda: True), model=model, data=rows)
    torn = scratch / "layer-2.pt"
    torn.write_bytes((scratch / "layer-1.pt").read_bytes()[:100])  # what a kill may leave
    stage.run(Job(parts, scratch), model=model, data=rows)
    for name in ("model.safetensors", "compression.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_a_matrix_that_no_token_reached_is_named(workshop):
    """Zeros before the last matrix of a layer: what it reads has no inverse."""
    folder = workshop.model().path
    model = tiny.model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.zero_()
    model.save_pretrained(folder)
    made = workshop.run("gptq", workshop.store.model(str(folder)), workshop.rows(*TEXTS), **FEW)
    assert made.facts["fallback"] == {
        "model.layers.0.mlp.down_proj": "rounded to nearest: what it reads has no inverse"
    }
    assert load_weights(made).model.layers[0].mlp.down_proj.weight.isfinite().all()


def test_conversations_are_rendered_as_the_model_reads_them(workshop):
    rows = workshop.rows(*({"prompt": f"say {n}", "completion": f"it is {n}"} for n in range(40)))
    made = workshop.run("gptq", workshop.model(), rows, **FEW)
    assert json.loads((made.path / "compression.json").read_text())[0]["tokens"] == 8 * 32


def test_too_few_rows_are_told_with_a_cure(workshop):
    with pytest.raises(DataError, match=r"The rows hold \d+ tokens, and 500 texts of 32 need 16000.*`sequences: \d+`"):
        workshop.run("gptq", workshop.model(), workshop.rows(*TEXTS), **FEW | {"sequences": 500})


def test_rows_shorter_than_one_text_are_told_with_a_cure(workshop):
    with pytest.raises(DataError, match=r"`sequences: 1` and `length: \d+`\.$"):
        workshop.run("gptq", workshop.model(), workshop.rows({"text": "a b c"}), **FEW)


def test_seeds_choose_the_rows(workshop):
    model, rows = workshop.model(), workshop.rows(*TEXTS)
    once, again, other = (workshop.run("gptq", model, rows, seed, **FEW).digest for seed in (0, 0, 1))
    assert once == again != other
