"""GPTQ on the grids of GGUF files: closer at the same bytes, and what is in the file is what was solved."""

import json

import pytest
from pydantic import ValidationError

from posttrain.models import llama_cpp
from tests import gguf_models
from tests.methods.transforms.test_gptq import TEXTS

FEW = {"solver": "gptq", "sequences": 8, "length": 32}


@pytest.fixture(autouse=True)
def no_llama_cpp(monkeypatch):
    """What is tested here must not hang on whether llama.cpp is installed."""
    monkeypatch.setattr(llama_cpp, "installed", lambda: False)


@pytest.fixture
def model(workshop):
    weights = gguf_models.model("llama", vocab_size=720)
    return workshop.store.model(str(gguf_models.save(workshop.folder / "m", weights, gguf_models.byte_level("qwen2"))))


def kl(workshop, made, model, rows) -> float:
    found = workshop.run("fidelity", made, rows, inputs={"against": model}, against="base")
    return json.loads((found.path / "findings.json").read_text())["metrics"]["kl"]["value"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q8_0"])
def test_it_is_closer_at_the_same_bytes(workshop, model, kind):
    rows = workshop.rows(*TEXTS)
    stock = workshop.run("gguf", model, types=[kind])
    solved = workshop.run("gguf", model, rows, types=[kind], **FEW)
    name = f"model-{kind.upper()}.gguf"
    assert stock.facts["files"][name]["bytes"] == solved.facts["files"][name]["bytes"]
    assert kl(workshop, solved, model, rows) < 0.8 * kl(workshop, stock, model, rows)


def test_each_type_is_solved_for_itself_and_others_are_exact(workshop, model):
    made = workshop.run("gguf", model, workshop.rows(*TEXTS), types=["f32", "q4_0", "q5_1"], **FEW)
    report = json.loads((made.path / "compression.json").read_text())
    assert report.keys() == {"q4_0", "q5_1"}
    for told in report.values():
        assert all(0 < each["error"] < each["nearest"] for each in told)
    assert report["q5_1"][0]["error"] < report["q4_0"][0]["error"]
    assert made.facts["difference"]["f32"]["kl"] == 0


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"solver": "gptq", "types": ["q4_0"]}, "give `data`, or leave `solver` out"),
        (
            {"solver": "gptq", "types": ["f16"], "data": "x"},
            "add one of q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k to `types`",
        ),
        ({"types": ["q4_0"], "data": "x"}, "add `solver: gptq`, or leave it out"),
        ({"types": ["q4_0"], "sequences": 4}, "`sequences` does nothing to `solver: stock`"),
    ],
)
def test_options_without_effect_are_refused(workshop, options, cure):
    with pytest.raises(ValidationError, match=cure):
        workshop.stage("gguf", **options)
