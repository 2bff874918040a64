"""GPTQ on the grids of GGUF files: closer at the same bytes, and what is in the file is what was solved."""

import json

import pytest
from pydantic import ValidationError

from posttrain.models import llama_cpp
from posttrain.schema.errors import MissingExtra, ModelError
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


@pytest.fixture
def wide(workshop):
    """A model whose rows are whole super-blocks, but for those that lead down."""
    sizes = {"hidden_size": 256, "intermediate_size": 320, "num_attention_heads": 8, "num_hidden_layers": 1}
    weights = gguf_models.model("llama", vocab_size=720, initializer_range=0.03, **sizes)
    return workshop.store.model(str(gguf_models.save(workshop.folder / "w", weights, gguf_models.byte_level("qwen2"))))


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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "smaller"), [("q4_k", "q5_0"), ("q5_k", "q5_1"), ("q6_k", "q8_0")])
def test_super_blocks_are_closer_at_the_same_bytes(workshop, wide, kind, smaller):
    """Rows that are no whole super-blocks become what llama.cpp makes of them, and are solved for that."""
    rows = workshop.rows(*TEXTS)
    stock = workshop.run("gguf", wide, types=[kind])
    solved = workshop.run("gguf", wide, rows, types=[kind], **FEW)
    files = [made.facts["files"][f"model-{kind.upper()}.gguf"] for made in (stock, solved)]
    assert files[0] == files[1]
    assert files[0]["types"] == {"f32": 3, "q8_0": 2 + (smaller == "q8_0"), kind: 6} | (
        {smaller: 1} if smaller != "q8_0" else {}
    )
    assert files[0]["fell_back"] == {"blk.0.ffn_down.weight": smaller}
    report = json.loads((solved.path / "compression.json").read_text())[kind]
    assert len(report) == 7
    assert all(0 < each["error"] < each["nearest"] for each in report)
    assert kl(workshop, solved, wide, rows) < 0.8 * kl(workshop, stock, wide, rows)


@pytest.mark.slow
def test_rows_change_how_super_blocks_are_rounded(workshop, wide):
    """Stock files are more careful with columns that matter where there are rows."""
    looks = {"sequences": 8, "length": 32}
    plain = workshop.run("gguf", wide, types=["q4_k"])
    careful = workshop.run("gguf", wide, workshop.rows(*TEXTS), types=["q4_k"], **looks)
    assert plain.bytes == careful.bytes
    assert plain.digest != careful.digest
    assert not (careful.path / "compression.json").exists()


def test_a_type_by_name_alone_is_refused(workshop, model):
    with pytest.raises(
        ModelError, match=r"`q4_k` wants rows of 256.*rows of 32, 64: nothing .* Write one of q8_0, q4_0"
    ):
        workshop.run("gguf", model, types=["q8_0", "q4_k"])


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
        ({"types": ["q4_k"], "length": 4}, "`length` does nothing to `solver: stock`"),
        ({"types": ["q4_k"], "data": "x", "correct": 1}, "`correct` does nothing to `solver: stock`"),
        ({"types": ["q2_k", "iq2_xs"]}, "`iq2_xs` is rounded by how much columns matter: give `data`, or write q2_k"),
        ({"types": ["q4_k_m"], "data": "x", "solver": "gptq"}, "add one of q8_0, .*q6_k to `types`"),
        ({"types": ["q4_0"], "embedding": "q4_k_m"}, "Input should be 'f32'"),
    ],
)
def test_options_without_effect_are_refused(workshop, options, cure):
    with pytest.raises(ValidationError, match=cure):
        workshop.stage("gguf", **options)


def test_blends_need_llama_cpp(workshop, model):
    with pytest.raises(MissingExtra, match=r"`q4_k_m` needs the package 'llama_cpp'.*posttrain\[llama\]"):
        workshop.run("gguf", model, types=["q4_0", "q4_k_m"])
