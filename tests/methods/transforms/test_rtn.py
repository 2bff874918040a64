"""Integers of few bits: what is written is what is computed with, here and in transformers, and what cannot be is refused."""

import json

import pytest
import torch
import transformers as hf
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from posttrain.functional.rounding import Integers, nearest
from posttrain.models.load import load_policy, load_weights
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError, UsageError
from tests import experts_models, tiny

IDS = torch.randint(6, tiny.VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
EXACT = {"dtype": "float32", "group": 16}


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    return load_weights(model)(input_ids=IDS).logits


@pytest.mark.parametrize("options", [{"bits": 8}, {"bits": 4}, {"bits": 3, "group": None}, {"bits": 2, "group": 8}])
def test_transformers_computes_the_same(workshop, options):
    pytest.importorskip("compressed_tensors")
    made = workshop.run("rtn", workshop.model(), **EXACT | options)
    theirs = hf.AutoModelForCausalLM.from_pretrained(made.path)
    with torch.no_grad():
        assert (theirs(input_ids=IDS).logits - logits(made)).abs().max() < 1e-5


def test_asymmetric_integers_are_read_by_transformers_when_it_makes_them_dense(workshop):
    pytest.importorskip("compressed_tensors")
    made = workshop.run("rtn", workshop.model(), symmetric=False, **EXACT)
    theirs = hf.AutoModelForCausalLM.from_pretrained(
        made.path, quantization_config=hf.CompressedTensorsConfig(dequantize=True)
    )
    with torch.no_grad():
        assert (theirs(input_ids=IDS).logits - logits(made)).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma", "glm4", "phi3", "gpt_neox"])
def test_weights_are_the_nearest_and_all_else_stays(workshop, family):
    model = workshop.model(family=family)
    made = workshop.run("rtn", model, **EXACT)
    before, after = (load_weights(each).state_dict() for each in (model, made))
    assert made.form == "compressed-tensors"
    assert before.keys() == after.keys()
    rounded = set(made.facts["rounded"])
    for name, x in before.items():
        matrix = name.removesuffix(".weight")
        expected = nearest(x, Integers(4, 16)).dense() if matrix in rounded else x
        assert after[name].equal(expected), name
    assert len(rounded) == made.facts["matrices"] > 0


def test_bits_are_counted_with_their_scales(workshop):
    made = workshop.run("rtn", workshop.model(), bits=4, group=16)
    of_shape = 2 * 64 / 512  # two whole numbers for each matrix, the smallest of which has 512 weights
    assert 4 + 16 / 16 < made.facts["bits_per_weight"] < 4 + 16 / 16 + of_shape
    kept = sum(x.nbytes for x in load_file(made.path / "model.safetensors").values())
    assert kept < 0.5 * sum(x.nbytes for x in load_file(workshop.model().path / "model.safetensors").values())


def test_what_is_not_rounded_is_stored_in_half(workshop):
    made = workshop.run("rtn", workshop.model(), group=16)
    stored = load_file(made.path / "model.safetensors")
    assert {x.dtype for name, x in stored.items() if "_packed" not in name and "_shape" not in name} == {torch.bfloat16}
    assert json.loads((made.path / "config.json").read_text())["dtype"] == "bfloat16"


def test_some_matrices_are_treated_otherwise(workshop):
    overrides = {"*.0.mlp.down_proj": {"bits": 8}, "*.0.*": {"keep": True}, "*.q_proj": {"group": 8}}
    made = workshop.run("rtn", workshop.model(), overrides=overrides, **EXACT)
    before, after = (load_weights(each).state_dict() for each in (workshop.model(), made))
    layers = {n: f"model.layers.{n}" for n in (0, 1)}
    expect = {
        f"{layers[0]}.mlp.down_proj": Integers(8, 16),
        f"{layers[0]}.mlp.up_proj": None,
        f"{layers[1]}.self_attn.q_proj": Integers(4, 8),
        f"{layers[1]}.mlp.up_proj": Integers(4, 16),
    }
    for name, grid in expect.items():
        x = before[f"{name}.weight"]
        assert after[f"{name}.weight"].equal(x if grid is None else nearest(x, grid).dense()), name
    pytest.importorskip("compressed_tensors")
    with torch.no_grad():
        theirs = hf.AutoModelForCausalLM.from_pretrained(made.path)
        assert (theirs(input_ids=IDS).logits - logits(made)).abs().max() < 1e-5


def test_it_answers_like_any_model(workshop):
    made = workshop.run("rtn", workshop.model(), bits=8, group=16)
    assert workshop.findings("size", made).metrics["bytes"].value == made.bytes
    assert load_policy(made).layout == "packed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"group": 20},
            r"Groups of 20 do not divide the 32 columns of model.layers.0.self_attn.q_proj and of 13 more.*are 16 and 32",
        ),
        (
            {"group": 16, "overrides": {"*.typo": {"bits": 8}}},
            r"`overrides: \*\.typo` fits no matrix.*self_attn.q_proj",
        ),
    ],
)
def test_wrong_options_are_told_with_a_cure(workshop, options, message):
    with pytest.raises(UsageError, match=message):
        workshop.run("rtn", workshop.model(), **options)


def test_patterns_of_names_are_read_as_other_programs_write_them(workshop):
    """llm-compressor says `re:.*down_proj` where we say each name."""
    made = workshop.run("rtn", workshop.model(), overrides={"*.down_proj": {"bits": 8}}, **EXACT)
    before = logits(made)
    config = json.loads((made.path / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        if group["targets"] != ["Linear"]:
            group["targets"] = ["re:.*down_proj"]
    (made.path / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits(made), before)


def test_experts_that_stand_in_one_block_are_named(workshop):
    """GPT-OSS has biases, and columns of gates and of what they let through by turns."""
    folder = experts_models.saved(workshop.folder / "experts", experts_models.model("gpt_oss"))
    made = workshop.run("rtn", workshop.store.model(str(folder)), group=16)
    assert [name for name in made.facts["left"] if "experts" in name]
    assert made.facts["matrices"] == 8  # query, key, value and output of two layers


@pytest.mark.parametrize("override", [{}, {"keep": True, "bits": 8}])
def test_an_override_says_one_thing(workshop, override):
    with pytest.raises(ValidationError, match="write either `keep: true` or how they are rounded"):
        workshop.stage("rtn", overrides={"*": override})


def test_keeping_everything_is_told(workshop):
    with pytest.raises(UsageError, match="`overrides` keeps every matrix as it is"):
        workshop.run("rtn", workshop.model(), overrides={"*": {"keep": True}}, **EXACT)


def test_gpt_2_is_refused(workshop):
    with pytest.raises(ModelError, match=r"GPT-2 and its like.*Write `gguf"):
        workshop.run("rtn", workshop.model(family="gpt2"), group=16)


def test_weights_that_are_no_numbers_are_refused(workshop):
    folder = workshop.model().path
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"model.layers.1.mlp.up_proj.weight holds weights that are infinite or no numbers"
    ):
        workshop.run("rtn", workshop.store.model(str(folder)), group=16)


def test_only_dense_models_are_accepted(workshop):
    stage = workshop.stage("rtn")
    assert stage.accepts == {"dense"}
    assert stage.makes_form("dense") == "compressed-tensors"


def test_damaged_integers_are_told(workshop):
    made = workshop.run("rtn", workshop.model(), **EXACT)
    weights = load_file(made.path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    del weights[f"{name}.weight_scale"]
    save_file(weights, made.path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"the integers of {name} cannot be read.*Copy the model again"):
        load_weights(made)
