"""Model Optimizer's layout: numbers by hand, a folder that computes what it stands for, and what is not read."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.engine.store import Store
from posttrain.models import modelopt_layout
from posttrain.models.drawn import drawn_logits
from posttrain.models.load import load_weights
from posttrain.models.modelopt_layout import EIGHT, FOUR
from posttrain.models.rounded_inputs import round_inputs_as_stored
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError
from tests import tiny

DRAW = torch.Generator().manual_seed(0)


def test_two_rows_are_in_one_byte():
    packed = torch.tensor([[0x8F, 0x70, 0x01]], dtype=torch.uint8)
    assert modelopt_layout.unpacked(packed).tolist() == [[-1, 0, 1], [-8, 7, 0]]


def test_four_bits_in_groups_by_hand():
    stored = {
        "m.weight": torch.tensor([[0x8F, 0x70, 0x01, 0x21]], dtype=torch.uint8),
        "m.weight_scale": torch.tensor([[0.5, 2.0], [1.0, 0.25]]),
    }
    found = modelopt_layout.dense("m", stored, {"quant_algo": FOUR})
    assert found.tolist() == [[-0.5, 0, 2, 2], [-8, 7, 0, 0.5]]


def test_eight_bits_have_one_scale_a_row():
    stored = {
        "m.weight": torch.tensor([[-128, 3], [127, 0]], dtype=torch.int8),
        "m.weight_scale": torch.tensor([0.5, 2.0]),
        "m.input_scale": torch.tensor(1.0),
    }
    assert modelopt_layout.dense("m", stored, {"quant_algo": EIGHT}).tolist() == [[-64, 1.5], [254, 0]]


def test_inputs_are_multiplied_and_then_rounded_alike_for_all_tokens():
    """2 x 0.3 is 1.2 steps of 0.5 and becomes 0.5; 2 x -100 is beyond the last of 128 steps; without a scale nothing is rounded."""
    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2, bias=False) for name in ("both", "before", "none")})
    for linear in model.values():
        torch.nn.init.eye_(linear.weight)
    factors = torch.tensor([2.0, 2.0])
    stored = {"both.pre_quant_scale": factors, "both.input_scale": torch.tensor(0.5), "before.pre_quant_scale": factors}
    round_inputs_as_stored(model, stored)
    x = torch.tensor([[0.3, -100.0]], requires_grad=True)
    assert model["both"](x).tolist() == [[0.5, -64.0]]
    assert model["before"](x).tolist() == [[pytest.approx(0.6), -200.0]]
    assert model["none"](x).equal(x)
    assert torch.autograd.grad(model["both"](x).sum(), x)[0].tolist() == [[2.0, 2.0]]
    assert set(model.state_dict()) == {"both.weight", "before.weight", "none.weight"}


def _drawn(name: str, linear: torch.nn.Linear, algorithm: str) -> dict[str, torch.Tensor]:
    """Stores a matrix, and lets the model compute what that stands for."""
    rows, columns = linear.weight.shape
    bits, group = (8, columns) if algorithm == EIGHT else (4, 16)
    scale = linear.weight.detach().unflatten(1, (-1, group)).abs().amax(-1) / (2 ** (bits - 1) - 1)
    ints = (linear.weight.detach() / scale.repeat_interleave(group, 1)).round()
    before, step = torch.rand(columns, generator=DRAW) + 0.5, torch.tensor(0.02)
    linear.weight.data = ints * scale.repeat_interleave(group, 1)
    stored = {f"{name}.weight_scale": scale, f"{name}.pre_quant_scale": before}
    if algorithm == EIGHT:
        linear.register_forward_pre_hook(lambda _, args: ((args[0] * before / step).round().clamp(-128, 127) * step,))
        return stored | {
            f"{name}.weight": ints.to(torch.int8),
            f"{name}.weight_scale": scale[:, 0],
            f"{name}.input_scale": step,
        }
    linear.register_forward_pre_hook(lambda _, args: (args[0] * before,))
    pairs = (ints.long() & 15).view(rows // 2, 2, columns)
    return stored | {f"{name}.weight": (pairs[:, 0] + 16 * pairs[:, 1]).to(torch.uint8)}


@pytest.fixture
def folder(tmp_path):
    def write(algorithm: str):
        model = tiny.model()
        model.save_pretrained(tmp_path)
        state = dict(model.state_dict())
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                state |= _drawn(name, module, algorithm)
        save_file({name: x.contiguous() for name, x in state.items()}, tmp_path / "model.safetensors")
        said = json.loads((tmp_path / "config.json").read_text())
        said["quantization_config"] = {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ["lm_head"]}
        (tmp_path / "config.json").write_text(json.dumps(said))
        return tmp_path, model

    return write


@pytest.mark.parametrize("algorithm", [EIGHT, FOUR])
def test_a_folder_computes_what_it_stands_for(folder, algorithm):
    path, model = folder(algorithm)
    read = load_weights(Model(path=path, digest="", form="modelopt"), at=torch.device("cpu"))
    assert torch.allclose(drawn_logits(read), drawn_logits(model), rtol=0, atol=1e-4)
    assert not torch.allclose(drawn_logits(read), drawn_logits(tiny.model()), rtol=0, atol=1e-2)


def test_a_folder_is_told_by_what_it_says(folder, tmp_path):
    path, _ = folder(FOUR)
    assert Store(tmp_path / "store").model(str(path)).form == "modelopt"


def test_another_of_its_formats_is_refused(folder):
    path, _ = folder("FP8")
    with pytest.raises(ModelError, match=r"holds FP8 of Model Optimizer.*Load the model that it was made from"):
        load_weights(Model(path=path, digest="", form="modelopt"))


@pytest.mark.parametrize("lost", ["input_scale", "weight_scale"])
def test_a_tensor_that_is_missing_is_named(folder, lost):
    path, _ = folder(EIGHT)
    name = f"model.layers.1.mlp.up_proj.{lost}"
    stored = {key: x for key, x in load_file(path / "model.safetensors").items() if key != name}
    save_file(stored, path / "model.safetensors")
    with pytest.raises(ModelError, match=rf"the integers of model.layers.1.mlp.up_proj cannot be read \('{name}'\)"):
        load_weights(Model(path=path, digest="", form="modelopt"))
