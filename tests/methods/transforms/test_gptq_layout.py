"""GPTQ's own layout: words by hand, what other programs write, and what cannot be said in it."""

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from posttrain.functional.packing import pack
from posttrain.functional.rounding import Integers, Rounded
from posttrain.models import gptq_layout
from posttrain.models.load import load_weights
from posttrain.schema.errors import ModelError, UsageError
from tests import tiny
from tests.methods.transforms.test_gptq import TEXTS

NAME = "model.layers.0.mlp.up_proj"
DRAW = torch.Generator().manual_seed(0)


def drawn(bits: int, rows: int = 32, columns: int = 64, group: int = 16) -> Rounded:
    """Integers with scales that float16 holds, and zeros other than the lowest."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    ints = torch.randint(low, high + 1, (rows, columns), generator=DRAW).to(torch.int8)
    scale = (torch.rand(rows, columns // group, generator=DRAW) + 0.5).half().float()
    zero = torch.randint(low + 1, high + 1, scale.shape, generator=DRAW)
    return Rounded(ints, scale, -scale * zero)


def test_words_by_hand():
    """Four bits: 8 integers a word, from 0 on, down a column; zeros of 8 are written 7, along a row."""
    ints = torch.zeros(8, 16, dtype=torch.int8)
    ints[0, :3] = torch.tensor([-8, 7, 1])  # 0, 15 and 9, and all others are 8
    found = gptq_layout.stored("m", Rounded(ints, torch.ones(8, 2), torch.zeros(8, 2)), Integers(4, 8))
    assert {name: tuple(x.shape) for name, x in found.items()} == {
        "m.qweight": (2, 8), "m.qzeros": (2, 1), "m.scales": (2, 8), "m.g_idx": (16,)}  # fmt: skip
    assert found["m.qweight"].view(torch.uint32).tolist() == [[0x888889F0, *[0x88888888] * 7], [0x88888888] * 8]
    assert found["m.qzeros"].tolist() == [[0x77777777], [0x77777777]]
    assert found["m.scales"].dtype == torch.float16
    assert found["m.g_idx"].tolist() == [0] * 8 + [1] * 8


def test_three_bits_lie_across_words():
    """Ten integers and two bits of the eleventh are in the first word: 4 is 100 from the low bit on, and 0 is 000."""
    ints = torch.zeros(32, 32, dtype=torch.int8)
    ints[0, 10] = 3  # 7: bits 30 and 31, and the first of the second word
    ints[0, :10] = -4
    found = gptq_layout.stored("m", Rounded(ints, torch.ones(32, 1), torch.zeros(32, 1)), Integers(3))
    assert found["m.qweight"].shape == (3, 32)
    first, second, _ = found["m.qweight"].view(torch.uint32)[:, 0].tolist()
    assert first == 0b11 << 30
    assert second & 0b1111 == 0b1001  # the last bit of 7, and then 4


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_there_and_back(bits):
    rounded = drawn(bits)
    stored = gptq_layout.stored("m", rounded, Integers(bits, 16, symmetric=False))
    assert torch.allclose(gptq_layout.dense("m", stored, {"bits": bits}), rounded.dense(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_zero_of_0_borrows_from_the_one_beside_it(bits):
    """GPTQModel takes one from each zero of a word at once, and adds it so."""
    zeros = torch.zeros(1, 32, dtype=torch.int8)
    zeros[0, 0] = -(1 << bits - 1)
    ones = sum(1 << shift for shift in range(0, 32, bits))
    words = pack(zeros, bits).long() - ones
    stored = gptq_layout.stored("m", drawn(bits, group=64), Integers(bits, symmetric=False))
    stored["m.qzeros"] = (words & 0xFFFFFFFF).to(torch.int32)
    ints = gptq_layout.dense("m", stored | {"m.scales": torch.ones(1, 32).half()}, {"bits": bits})
    stored["m.qzeros"] = pack(zeros, bits)
    second = {"bits": bits, "checkpoint_format": "gptq_v2"}
    assert ints.equal(gptq_layout.dense("m", stored | {"m.scales": torch.ones(1, 32).half()}, second))


def test_each_input_may_be_of_any_group():
    """As those of `desc_act`: columns of one group lie apart, and the scale goes by `g_idx`."""
    rounded, of = drawn(4), torch.randint(0, 4, (64,), generator=DRAW)
    stored = gptq_layout.stored("m", rounded, Integers(4, 16, symmetric=False)) | {"m.g_idx": of.to(torch.int32)}
    expected = rounded.scale[:, of] * rounded.ints + rounded.offset[:, of]
    assert torch.allclose(gptq_layout.dense("m", stored, {"bits": 4}), expected, rtol=1e-6, atol=1e-6)
    del stored["m.g_idx"]
    assert torch.allclose(gptq_layout.dense("m", stored, {"bits": 4}), rounded.dense(), rtol=1e-6, atol=1e-6)


def test_bits_are_told_by_the_shapes():
    """As those that others say in `dynamic`."""
    rounded = drawn(8)
    stored = gptq_layout.stored("m", rounded, Integers(8, 16, symmetric=False))
    assert torch.allclose(gptq_layout.dense("m", stored, {"bits": 4}), rounded.dense(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{"bits": 4}, {"bits": 8, "group": None}, {"bits": 2}, {"symmetric": False}])
def test_it_holds_the_numbers_that_the_other_layout_does(workshop, options):
    options = {"group": 16} | options
    made = workshop.run("rtn", workshop.model(), layout="gptq", **options)
    other = workshop.run("rtn", workshop.model(), dtype="float16", **options)
    assert made.form == "gptq"
    expected = load_weights(other).state_dict()
    for name, x in load_weights(made).state_dict().items():
        assert torch.allclose(x, expected[name], rtol=1e-6, atol=1e-7), name
    assert made.facts["rounded"] == other.facts["rounded"]


def test_its_configuration_stands_in_both_places(workshop):
    made = workshop.run(
        "gptq", workshop.model(), workshop.rows(*TEXTS), layout="gptq", group=16, sequences=4, length=32
    )
    config = json.loads((made.path / "config.json").read_text())
    said = config["quantization_config"]
    assert said == json.loads((made.path / "quantize_config.json").read_text())
    assert said["quant_method"] == said["checkpoint_format"] == "gptq"
    assert (said["bits"], said["group_size"], said["desc_act"], said["sym"]) == (4, 16, False, True)
    stored = load_file(made.path / "model.safetensors")
    assert config["dtype"] == "float16"
    assert {x.dtype for x in stored.values()} == {torch.float16, torch.int32}
    assert not [name for name in stored if name.startswith(f"{NAME}.w")]
    assert made.facts["error"] < made.facts["error_nearest"]


def test_a_model_in_it_is_measured_like_any(workshop):
    model, rows = workshop.model(), workshop.rows(*TEXTS)
    made = workshop.run("awq", model, rows, layout="gptq", bits=8, group=16, sequences=4, length=32)
    found = workshop.run("fidelity", made, rows, inputs={"against": model}, against="base")
    assert 0 < json.loads((found.path / "findings.json").read_text())["metrics"]["kl"]["value"] < 0.05
    assert workshop.findings("size", made).metrics["bytes"].value == made.bytes


def changed(made, **changes) -> None:
    """A folder whose configuration says something else."""
    path = made.path / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= changes
    path.write_text(json.dumps(config))


def test_what_is_damaged_or_not_known_is_told(workshop):
    made = workshop.run("rtn", workshop.model(), layout="gptq", group=16)
    changed(made, checkpoint_format="marlin")
    with pytest.raises(ModelError, match=r"the integers of .* cannot be read \('marlin'\)"):
        load_weights(made)
    changed(made, checkpoint_format="gptq")
    weights = load_file(made.path / "model.safetensors")
    del weights[f"{NAME}.qzeros"]
    save_file(weights, made.path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"the integers of {NAME} cannot be read.*Copy the model again"):
        load_weights(made)


@pytest.mark.parametrize(
    "options", [{"overrides": {"*.down_proj": {"bits": 8}}}, {"dtype": "bfloat16"}, {"activations": 8}]
)
def test_what_cannot_be_said_in_it_is_told(workshop, options):
    with pytest.raises(ValidationError, match="`layout: gptq` holds all matrices of the layers"):
        workshop.stage("rtn", layout="gptq", **options)


def test_words_that_are_not_filled_are_told(workshop):
    folder = workshop.folder / "narrow"
    tiny.model(intermediate_size=44).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    model = workshop.store.model(str(folder))
    message = r"mlp.gate_proj has 44 rows of 32, in 4 bits each. Leave out `layout`, or take more `bits`"
    with pytest.raises(UsageError, match=message):
        workshop.run("rtn", model, layout="gptq", group=None)
    assert workshop.run("rtn", model, layout="gptq", group=None, bits=8).form == "gptq"
