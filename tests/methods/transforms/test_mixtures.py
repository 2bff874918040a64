"""Compression of mixtures of experts: every expert by the tokens that chose it, none lost, and the same model when it is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors import safe_open

from posttrain.engine import layerwise
from posttrain.engine.job import Job
from posttrain.functional.divergence import plain_divergence
from posttrain.functional.rounding import Integers, nearest
from posttrain.models import llama_cpp
from posttrain.models.experts import fused_in
from posttrain.models.gguf_file import file_in, gguf_weights, tensors_in
from posttrain.models.load import load_weights
from posttrain.models.matrices import decoder, matrices_in
from posttrain.schema.errors import Stopped
from tests import experts_models, gguf_models, tiny
from tests.experts_models import NEVER
from tests.methods.transforms.test_gptq import TEXTS

IDS = torch.randint(6, tiny.VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(0))
LOOKS = {"sequences": 8, "length": 32}
FEW = LOOKS | {"group": 16, "dtype": "float32"}


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return load_weights(model)(input_ids=IDS, use_cache=False).logits


@pytest.fixture
def mixture(workshop):
    return workshop.store.model(str(experts_models.saved(workshop.folder / "mixture", experts_models.uneven())))


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen2_moe", "mixtral", "olmoe", "granitemoe"])
def test_what_is_read_is_what_was_rounded(workshop, family):
    model = workshop.store.model(str(experts_models.saved(workshop.folder / family, experts_models.model(family))))
    made = workshop.run("rtn", model, bits=3, group=16, dtype="float32")
    expected = decoder(model, "rounded")
    with torch.no_grad():
        for matrix in matrices_in(expected).values():
            matrix.weight.copy_(nearest(matrix.weight, Integers(3, 16)).dense())
        assert torch.equal(logits(made), expected(input_ids=IDS, use_cache=False).logits)
    assert len([name for name in made.facts["rounded"] if ".experts." in name]) == 2 * 4 * 3
    with safe_open(made.path / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "experts" in name and not name.rpartition(".weight_")[1]]  # noqa: SIM118


@pytest.mark.parametrize(
    ("family", "read", "options"),
    [
        ("qwen3_moe", True, {}),
        ("mixtral", True, {}),
        ("qwen3_moe", True, {"overrides": {"*.self_attn.*": {"bits": 8}}}),
        ("qwen3_moe", True, {"overrides": {"*.experts.*": {"bits": 8}}}),
        ("qwen3_moe", False, {"overrides": {"*.layers.0.mlp.experts.*": {"bits": 8}}}),
        ("qwen3_moe", False, {"overrides": {"*.experts.2.*": {"keep": True}}}),
        ("qwen3_moe", False, {"overrides": {"*.experts.*": {"keep": True}}}),
        ("qwen3_moe", False, {"symmetric": False}),
        ("granitemoe", False, {}),
    ],
)
def test_it_is_said_whether_transformers_reads_it(workshop, family, read, options):
    pytest.importorskip("compressed_tensors")
    model = workshop.store.model(str(experts_models.saved(workshop.folder / family, experts_models.model(family))))
    made = workshop.run("rtn", model, group=16, dtype="float32", **options)
    assert ("transformers" in made.facts["experts"]["read_by"]) == read
    try:
        theirs = hf.AutoModelForCausalLM.from_pretrained(made.path)
        with torch.no_grad():
            apart = (theirs(input_ids=IDS, use_cache=False).logits - logits(made)).abs().max()
    except RuntimeError:
        apart = torch.inf
    assert apart < 1e-5 if read else apart > 0.1


def test_few_tokens_are_too_few():
    assert layerwise.unheard(8, 32) == ""
    assert layerwise.unheard(7, 32) == "7 tokens reached it, fewer than 0.25 for each of 32 columns"
    assert layerwise.unheard(0, 32) == "no token reached it"


def test_every_expert_is_told_of_and_none_is_lost(workshop, mixture):
    made = workshop.run("gptq", mixture, workshop.rows(*TEXTS), bits=3, **FEW)
    report = {each["name"]: each for each in json.loads((made.path / "compression.json").read_text())}
    tokens = {name: each["tokens"] for name, each in report.items() if name.endswith("up_proj")}
    for layer in (0, 1):
        of_layer = [tokens[f"model.layers.{layer}.mlp.experts.{n}.up_proj"] for n in range(4)]
        assert sum(of_layer) == 2 * 8 * 32
        assert of_layer[NEVER] == 0
    never = f"model.layers.0.mlp.experts.{NEVER}.up_proj"
    assert made.facts["fallback"][never] == "rounded to nearest: no token reached it"
    few = [name for name, each in report.items() if each["fallback"] and each["tokens"]]
    assert all(
        report[name]["tokens"] < 8 and "fewer than 0.25 for each of 32" in made.facts["fallback"][name] for name in few
    )
    assert all(each["error"] < each["nearest"] for each in report.values() if not each["fallback"])
    before, after = (decoder(each, "compared") for each in (mixture, made))
    for name, matrix in matrices_in(after).items():
        assert matrix.weight.isfinite().all(), name
        assert matrix.weight.ne(0).any(), name
    kept = matrices_in(before)[never].weight.detach()
    assert matrices_in(after)[never].weight.equal(nearest(kept, Integers(3, 16)).dense())
    assert after.model.layers[0].mlp.gate.weight.equal(before.model.layers[0].mlp.gate.weight)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"method": "gptq"}, {"method": "gptq", "correct": 0}, {"method": "awq"}])
def test_it_is_closer_than_rounding_to_nearest(workshop, mixture, options):
    rows, method = workshop.rows(*TEXTS), options.pop("method")
    made = {
        "near": workshop.run("rtn", mixture, bits=3, group=16, dtype="float32"),
        "solved": workshop.run(method, mixture, rows, bits=3, **FEW, **options),
    }
    kl = {}
    for name, each in made.items():
        found = workshop.run("fidelity", each, rows, inputs={"against": mixture}, against="base")
        kl[name] = json.loads((found.path / "findings.json").read_text())["metrics"]["kl"]["value"]
    assert 0 < kl["solved"] < 0.8 * kl["near"]


@pytest.mark.parametrize(("method", "options"), [("gptq", FEW), ("awq", FEW), ("prune", LOOKS)])
def test_a_killed_run_goes_on_behind_the_last_layer(workshop, mixture, tmp_path, method, options):
    rows = workshop.rows(*TEXTS)
    stage = workshop.stage(method, rows, **options)
    whole, parts, scratch = (tmp_path / name for name in ("whole", "parts", "scratch"))
    for folder in (whole, parts, scratch, tmp_path / "other"):
        folder.mkdir()
    stage.run(Job(whole, tmp_path / "other"), model=mixture, data=rows)
    with pytest.raises(Stopped, match="Stopped after layer 1 of 2"):
        stage.run(Job(parts, scratch, stop=lambda: True), model=mixture, data=rows)
    stage.run(Job(parts, scratch), model=mixture, data=rows)
    for name in ("model.safetensors", "compression.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_experts_are_heard_in_parts_where_they_are_many(workshop, mixture, tmp_path, monkeypatch):
    """Those of a kind do not read what the others of it write: part by part is the same."""
    rows = workshop.rows(*TEXTS)
    stage = workshop.stage("gptq", rows, **FEW)
    found = []
    for most in (layerwise.MOST_BYTES, 2 * 2 * 4 * 32**2):
        monkeypatch.setattr(layerwise, "MOST_BYTES", most)
        folder, scratch = tmp_path / f"{most}", tmp_path / f"{most}-scratch"
        folder.mkdir()
        scratch.mkdir()
        stage.run(Job(folder, scratch), model=mixture, data=rows)
        found.append((folder / "model.safetensors").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("by", ["magnitude", "wanda", "sparsegpt"])
def test_pruned_it_is_an_ordinary_model_with_its_experts_in_one(workshop, mixture, by):
    made = workshop.run("prune", mixture, workshop.rows(*TEXTS), by=by, **LOOKS)
    assert made.form == "dense"
    theirs = hf.AutoModelForCausalLM.from_pretrained(made.path, dtype=torch.float32)
    assert len(fused_in(theirs)) == 2
    for fused in fused_in(theirs).values():
        for x in (fused.gate_up_proj, fused.down_proj):
            assert x.eq(0).float().mean((1, 2)).tolist() == pytest.approx([0.5] * 4, abs=0.02)
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(input_ids=IDS, use_cache=False).logits, logits(made), atol=1e-4)
    assert made.facts["matrices"] == 2 * (4 + 4 * 3)


@pytest.mark.slow
def test_all_experts_of_a_layer_get_the_same_bits(workshop, mixture):
    made = workshop.run(
        "compress", mixture, workshop.rows(*TEXTS), within={"bytes": "60%"}, aside=4, tries=3, **LOOKS, group=16
    )
    config = json.loads((made.path / "config.json").read_text())["quantization_config"]
    assert len(config["config_groups"]) > 1
    assert sum(made.facts["matrices_of_bits"].values()) == 2 * (4 + 4 * 3)
    for layer in (0, 1):
        of = [
            group["weights"]["num_bits"]
            for group in config["config_groups"].values()
            for name in group["targets"]
            if name.startswith(rf"re:model\.layers\.{layer}\.")
        ]
        assert len(of) == 3
        assert len(set(of)) == 1
    assert logits(made).isfinite().all()


def test_solved_blocks_of_experts_are_in_the_file(workshop):
    """Read back, the experts are those that were solved and no others."""
    weights = gguf_models.model("qwen3_moe", vocab_size=720)
    model = workshop.store.model(str(gguf_models.save(workshop.folder / "m", weights, gguf_models.byte_level("qwen2"))))
    options = {"types": ["q4_0"], "compare": "never"}
    rows = workshop.rows(*TEXTS)
    stock, solved = (
        workshop.run("gguf", model, **options),
        workshop.run("gguf", model, rows, solver="gptq", **LOOKS, **options),
    )
    assert file_in(stock.path).stat().st_size == file_in(solved.path).stat().st_size
    report = json.loads((solved.path / "compression.json").read_text())["q4_0"]
    errors = {each["name"]: each for each in report}
    near, far = (gguf_weights(each.path, weights.config) for each in (solved, stock))
    own = weights.state_dict()
    for name in ("model.layers.0.mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.down_proj"):
        assert near[name].shape == own[name].shape
        steps = [(x[name] - own[name]).norm() / own[name].norm() for x in (near, far)]
        assert 0 < steps[1] < steps[0] < 3 * steps[1]  # farther from the weights, closer in what they give
    assert all(each["error"] < each["nearest"] for each in errors.values() if not each["fallback"])
    assert sum(".experts." in name for name in errors) == 2 * 4 * 3


@pytest.mark.slow
def test_experts_are_solved_in_super_blocks(workshop):
    """Rows of 256 of every expert, in one tensor of the file; nothing of it goes where it does not belong."""
    weights = gguf_models.model("qwen3_moe", vocab_size=720, hidden_size=256, moe_intermediate_size=256)
    model = workshop.store.model(str(gguf_models.save(workshop.folder / "m", weights, gguf_models.byte_level("qwen2"))))
    rows = workshop.rows(*TEXTS)
    made = workshop.run("gguf", model, rows, types=["q4_k"], solver="gptq", compare="never", **LOOKS)
    path, own = file_in(made.path), weights.state_dict()
    read = gguf_weights(made.path, weights.config)
    for part, name in (("gate", "gate_up_proj"), ("up", "gate_up_proj"), ("down", "down_proj")):
        assert tensors_in(path)[f"blk.0.ffn_{part}_exps.weight"] == ("q4_k", (4, 256, 256))
        there, here = read[f"model.layers.0.mlp.experts.{name}"], own[f"model.layers.0.mlp.experts.{name}"]
        assert there.shape == here.shape
        for expert in range(4):
            assert 0 < (there[expert] - here[expert]).norm() < 0.15 * here[expert].norm()


def test_zeros_of_experts_are_held(workshop, mixture):
    from posttrain.models.zeros import hold_zeros

    made = workshop.run("prune", mixture, workshop.rows(*TEXTS), by="magnitude", **LOOKS)
    weights = load_weights(made)
    n = hold_zeros(weights)
    assert n == pytest.approx(0.5 * (2 * (3 * 4 * 32 * 32) + 2 * (2 * 32 * 32 + 2 * 16 * 32)), rel=0.02)
    weights(input_ids=IDS).logits.square().sum().backward()
    experts = next(iter(fused_in(weights).values()))
    assert experts.down_proj.grad.ne(0).any()
    assert experts.down_proj.grad[experts.down_proj.eq(0)].eq(0).all()


def test_the_folder_of_a_mixture_is_small(workshop, mixture):
    made = workshop.run("rtn", mixture, bits=4, group=16)
    sizes = [Path(each.path / "model.safetensors").stat().st_size for each in (mixture, made)]
    assert sizes[1] < 0.45 * sizes[0]


@pytest.mark.gguf
@pytest.mark.slow
@pytest.mark.skipif(not llama_cpp.installed(), reason="llama.cpp is not installed: `make test-gguf` compiles it")
@pytest.mark.parametrize("kind", ["q4_0", "q5_1", "q8_0"])
def test_llama_cpp_computes_what_was_solved(workshop, kind):
    """It rounds what goes into a product as well, so that it is near, and not the same: a token may go to another expert."""
    weights = gguf_models.model("qwen3_moe", vocab_size=720)
    model = workshop.store.model(str(gguf_models.save(workshop.folder / "m", weights, gguf_models.byte_level("qwen2"))))
    made = workshop.run("gguf", model, workshop.rows(*TEXTS), types=[kind], solver="gptq", **LOOKS)
    assert made.facts["verified"] == "llama.cpp"
    llama, ids = llama_cpp.opened(file_in(made.path)), list(range(10, 200))
    llama.eval(ids)
    theirs = torch.from_numpy(np.array(llama.scores[: len(ids)])).double()
    llama.close()
    ours, dense = (llama_cpp._dense(load_weights(each), ids) for each in (made, model))
    apart = float(plain_divergence(theirs, ours).mean())
    assert apart < 1e-4
    if kind == "q4_0":
        assert apart < 0.1 * float(plain_divergence(ours, dense).mean())
