"""SmoothQuant on tiny models with planted outliers; inputs are rounded as compressed-tensors and transformers round them."""

import json

import pytest
import torch
import transformers as hf
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from posttrain.models.load import load_weights
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError
from tests import tiny
from tests.methods.transforms.test_gptq import TEXTS

FEW = {"sequences": 8, "length": 32, "dtype": "float32"}
IDS = torch.randint(6, tiny.VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(0))
OUTLIERS, TIMES = [3, 17], 60.0
MATRIX = "model.layers.1.mlp.up_proj"


@torch.no_grad()
def logps(weights: torch.nn.Module) -> torch.Tensor:
    return weights(input_ids=IDS).logits.log_softmax(-1)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p.exp() * (p - q)).sum(-1).mean())


@torch.no_grad()
def with_outliers(workshop, seed: int = 0) -> Model:
    """A model that computes what it did, some inputs of whose matrices are TIMES as large."""
    weights, by = tiny.model(seed=seed), torch.ones(32)
    by[OUTLIERS] = TIMES
    for layer in weights.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        layer.input_layernorm.weight.mul_(by)
        layer.post_attention_layernorm.weight.mul_(by)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            linear.weight.div_(by)
    folder = workshop.folder / f"outliers-{seed}"
    weights.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return workshop.store.model(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["nearest", "gptq"])
@pytest.mark.parametrize("seed", range(3))
def test_it_loses_far_less_than_plain_rounding_where_there_are_outliers(workshop, seed, solver):
    model = with_outliers(workshop, seed)
    whole = logps(load_weights(model))
    plain = workshop.run("rtn", model, activations=8, dtype="float32")
    smooth = workshop.run("smoothquant", model, workshop.rows(*TEXTS), solver=solver, **FEW)
    assert kl(whole, logps(load_weights(smooth))) < 0.1 * kl(whole, logps(load_weights(plain)))


def test_only_what_can_be_scaled_is(workshop):
    made = workshop.run("smoothquant", workshop.model(), workshop.rows(*TEXTS), **FEW)
    report = json.loads((made.path / "compression.json").read_text())
    assert {each["name"].rpartition(".")[2] for each in report if each["note"]} == {"o_proj"}


@pytest.mark.parametrize("method", ["rtn", "smoothquant"])
def test_transformers_computes_the_same(workshop, method):
    """To the last roundings: an input between two integers may go to the other one."""
    pytest.importorskip("compressed_tensors")
    rows = workshop.rows(*TEXTS) if method == "smoothquant" else ()
    options = FEW if rows else {"activations": 8, "dtype": "float32"}
    made = workshop.run(method, with_outliers(workshop), rows, **options)
    ours, theirs = logps(load_weights(made)), logps(hf.AutoModelForCausalLM.from_pretrained(made.path))
    whole = logps(load_weights(with_outliers(workshop)))
    assert kl(ours, theirs) < 1e-3 * kl(whole, ours)


def test_without_rounding_its_inputs_it_computes_something_else(workshop):
    """So what is measured is not the weights alone."""
    made = workshop.run("rtn", with_outliers(workshop), activations=8, dtype="float32")
    alone = workshop.run("rtn", with_outliers(workshop), bits=8, group=None, dtype="float32")
    stored, packed = load_weights(made), load_weights(alone)
    for (name, a), b in zip(stored.named_parameters(), packed.parameters(), strict=True):
        assert a.equal(b), name
    assert kl(logps(packed), logps(stored)) > 0.05


def test_the_files_are_those_of_compressed_tensors(workshop):
    quantization = pytest.importorskip("compressed_tensors.quantization")
    compressors = pytest.importorskip("compressed_tensors.compressors")
    made = workshop.run("rtn", workshop.model(), activations=8, dtype="float32", overrides={"*.0.*": {"keep": True}})
    said = json.loads((made.path / "config.json").read_text())["quantization_config"]
    config = quantization.QuantizationConfig.model_validate(said)
    scheme = quantization.preset_name_to_scheme("W8A8", ["Linear"])
    ours = config.config_groups["group_0"]
    for part in ("weights", "input_activations"):
        told = ("num_bits", "type", "symmetric", "strategy", "dynamic", "group_size")
        mine, preset = getattr(ours, part), getattr(scheme, part)
        assert [getattr(mine, name) for name in told] == [getattr(preset, name) for name in told]
    assert (config.format, ours.format, ours.targets) == ("int-quantized", "int-quantized", ["Linear"])
    assert set(config.ignore) == {"lm_head", *(n for n in made.facts["left"] if ".0." in n)}
    stored = load_file(made.path / "model.safetensors")
    weight = load_weights(workshop.model()).get_parameter(f"{MATRIX}.weight").detach()
    scale = stored[f"{MATRIX}.weight_scale"]
    theirs = compressors.IntQuantizationCompressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    assert {name for name in stored if name.startswith(MATRIX)} == {f"{MATRIX}.{name}" for name in theirs}
    assert stored[f"{MATRIX}.weight"].dtype == torch.int8
    assert stored[f"{MATRIX}.weight"].equal(theirs["weight"])
    assert scale.equal(weight.abs().amax(1, keepdim=True) / 127.5)


def test_what_other_programs_write_is_read(workshop):
    """Patterns in place of names, and matrices that are kept."""
    made = workshop.run("rtn", workshop.model(), activations=8, dtype="float32")
    before = logps(load_weights(made))
    path = made.path / "config.json"
    config = json.loads(path.read_text())
    said = config["quantization_config"]
    said["config_groups"]["group_0"]["targets"] = ["re:.*self_attn.*", r"re:.*\.mlp\..*"]
    said["ignore"] = ["re:.*lm_head"]
    path.write_text(json.dumps(config))
    assert logps(load_weights(made)).equal(before)
    said["ignore"] += ["re:.*mlp.*"]  # of which the inputs then stay as they are
    path.write_text(json.dumps(config))
    rounded = {name for name, m in load_weights(made).named_modules() if m._forward_pre_hooks}
    assert rounded == {f"model.layers.{n}.self_attn.{name}_proj" for n in (0, 1) for name in "qkvo"}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (48, 2)])
def test_scales_of_other_parts_and_zeros_are_read(workshop, shape):
    """One for the whole matrix, and one for each half of a row."""
    made = workshop.run("rtn", workshop.model(), activations=8, dtype="float32")
    stored = load_file(made.path / "model.safetensors")
    scale, zero = torch.full(shape, 0.25), torch.full(shape, 3, dtype=torch.int8)
    stored |= {f"{MATRIX}.weight_scale": scale, f"{MATRIX}.weight_zero_point": zero}
    save_file(stored, made.path / "model.safetensors", {"format": "pt"})
    found = load_weights(made).get_parameter(f"{MATRIX}.weight")
    assert found.equal(0.25 * (stored[f"{MATRIX}.weight"].float() - 3))


@pytest.mark.parametrize("change", [{"strategy": "tensor"}, {"dynamic": False}, {"num_bits": 4}, {"symmetric": False}])
def test_inputs_that_are_rounded_otherwise_are_refused(workshop, change):
    made = workshop.run("rtn", workshop.model(), activations=8)
    config = json.loads((made.path / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["input_activations"] |= change
    (made.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"rounded in another way.*Measure the model that it was made from"):
        load_weights(made)


def test_gradients_pass(workshop):
    """As through inputs that are not rounded: attacks by gradients must not see a wall."""
    weights = load_weights(workshop.run("rtn", workshop.model(), activations=8, dtype="float32"))
    embedded = weights.get_input_embeddings()(IDS).detach().requires_grad_()
    weights(inputs_embeds=embedded).logits.logsumexp(-1).mean().backward()
    assert embedded.grad.abs().mean() > 0


@pytest.mark.parametrize(
    "options",
    [{"bits": 4}, {"group": 16}, {"symmetric": False}, {"overrides": {"*.down_proj": {"bits": 8}}}],
)
def test_what_rounded_inputs_do_not_go_with_is_told(workshop, options):
    with pytest.raises(ValidationError, match="programs that round activations want weights of 8 bits"):
        workshop.stage("rtn", activations=8, **options)


def test_eight_bits_and_whole_rows_follow_from_rounded_inputs(workshop):
    stage = workshop.stage("rtn", activations=8)
    assert (stage.bits, stage.group) == (8, None)
    smooth = workshop.stage("smoothquant", workshop.rows(*TEXTS))
    assert (smooth.bits, smooth.group, smooth.activations) == (8, None, 8)
    assert workshop.stage("smoothquant", workshop.rows(*TEXTS), activations=None, bits=4, group=16).bits == 4
