"""Experts taken apart compute what they did, hear of every token that chose them, and are called in files as others call them."""

import pytest
import torch
from torch import nn

from posttrain.models.blocks import Blocks
from posttrain.models.expert_names import patterns_of, stacked, stored_names
from posttrain.models.experts import (
    experts_in,
    fused_in,
    kind_of,
    layer_of_experts,
    linears_in,
    put_together,
    routed_as,
    take_apart,
)
from posttrain.models.folding import fold, folds
from posttrain.models.inputs import Inputs, groups
from posttrain.models.matrices import matrices_in, others_in, units_in
from tests import experts_models, tiny

IDS = torch.randint(6, tiny.VOCABULARY, (4, 24), generator=torch.Generator().manual_seed(0))
FAMILIES = {  # what the matrices of an expert are called in files
    "qwen3_moe": ("gate_proj", "up_proj", "down_proj"),
    "qwen2_moe": ("gate_proj", "up_proj", "down_proj"),
    "olmoe": ("gate_proj", "up_proj", "down_proj"),
    "deepseek_v3": ("gate_proj", "up_proj", "down_proj"),
    "glm4_moe": ("gate_proj", "up_proj", "down_proj"),
    "mixtral": ("w1", "w3", "w2"),
    "phimoe": ("w1", "w3", "w2"),
    "minimax_m2": ("w1", "w3", "w2"),
    "granitemoe": ("gate_proj", "up_proj", "down_proj"),  # one tensor in its files, and so of no other name
}


@torch.no_grad()
def logits(weights: nn.Module) -> torch.Tensor:
    return weights(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_taken_apart_compute_the_same_and_so_do_they_together_again(family):
    weights = experts_models.model(family)
    before, state = logits(weights), {name: x.clone() for name, x in weights.state_dict().items()}
    whole = len(fused_in(weights))
    take_apart(weights)
    assert whole == len(experts_in(weights)) > 0 == len(fused_in(weights))
    assert (logits(weights) - before).abs().max() < 1e-6 * before.abs().max()
    names = [name for name in matrices_in(weights) if ".experts." in name]
    assert len(names) == whole * 4 * 3
    put_together(weights)
    assert weights.state_dict().keys() == state.keys()
    assert all(x.equal(state[name]) for name, x in weights.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_called_as_in_the_files_of_their_family(family):
    weights = experts_models.model(family)
    take_apart(weights)
    name = next(iter(experts_in(weights)))
    stored = stored_names(weights, [f"{name}.2.{part}" for part in ("gate_proj", "up_proj", "down_proj")])
    assert tuple(each.rpartition(".")[2] for each in stored.values()) == FAMILIES[family]
    assert all(".experts.2." in each for each in stored.values())
    if family == "mixtral":
        assert stored[f"{name}.2.up_proj"] == "model.layers.0.block_sparse_moe.experts.2.w3"
        assert patterns_of(weights, [f"{name}.{n}.up_proj" for n in range(4)]) == [
            r"re:model\.layers\.0\.mlp\.experts\.\d+\.up_proj$",
            r"re:model\.layers\.0\.block_sparse_moe\.experts\.\d+\.w3$",
        ]


@pytest.mark.parametrize("family", ["mixtral", "granitemoe"])
def test_what_files_hold_of_each_is_put_into_one(family):
    weights = experts_models.model(family)
    whole = {name: x.clone() for name, x in weights.state_dict().items() if "experts" in name}
    take_apart(weights)
    matrices = {name: x for name, x in matrices_in(weights).items() if "experts" in name}
    stored = stored_names(weights, list(matrices))
    put_together(weights)
    found = stacked(weights, {f"{stored[name]}.weight": x.weight.detach() for name, x in matrices.items()})
    assert found.keys() == whole.keys()
    assert all(found[name].equal(x) for name, x in whole.items())


@pytest.mark.parametrize(
    ("family", "kept"),
    [
        ("qwen2_moe", {"mlp.gate.weight"}),
        ("phimoe", set()),  # a plain matrix chooses
        ("gpt_oss", {"mlp.router.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj",
                     "mlp.experts.gate_up_proj_bias", "mlp.experts.down_proj_bias"}),
    ],
)  # fmt: skip
def test_what_chooses_is_no_matrix_and_what_cannot_be_taken_apart_is_named(family, kept):
    weights = experts_models.model(family)
    take_apart(weights)
    assert {name.removeprefix("model.layers.0.") for name in others_in(weights) if ".0." in name} == kept
    assert not [name for name in matrices_in(weights) if name.endswith(("gate", "router"))]


def test_a_shared_expert_is_as_wide_as_there_are_experts_and_is_no_router():
    weights = experts_models.model("qwen2_moe", shared_expert_intermediate_size=4)
    found = linears_in(weights.model.layers[0])
    assert "mlp.shared_expert.up_proj" in found
    assert "mlp.shared_expert_gate" not in found


def test_kinds_and_units():
    assert kind_of("model.layers.0.mlp.experts.12.up_proj") == "model.layers.0.mlp.experts.*.up_proj"
    assert kind_of("model.layers.0.mlp.up_proj") == "model.layers.0.mlp.up_proj"
    assert layer_of_experts("model.layers.3.mlp.experts.12.up_proj") == "model.layers.3.mlp.experts"
    assert layer_of_experts("model.layers.3.mlp.up_proj") == ""
    weights = experts_models.model()
    take_apart(weights)
    units = units_in(weights)
    assert len(units) == 2 * (4 + 1)
    assert len(units["model.layers.1.mlp.experts"]) == 4 * 3


def first_block(weights):
    take_apart(weights)
    blocks = Blocks(weights, IDS, torch.device("cpu"), both=True)
    return blocks, next(iter(blocks))


def test_every_expert_is_heard_of_with_the_tokens_that_chose_it():
    weights = experts_models.uneven()
    chosen: list[torch.Tensor] = []
    weights.model.layers[0].mlp.gate.register_forward_hook(lambda _, __, out: chosen.append(out[2]))
    blocks, block = first_block(weights)
    of = groups(block, blocks.some())
    names = [f"model.layers.0.mlp.experts.{n}." for n in range(4)]
    assert [[f"{name}gate_proj", f"{name}up_proj"] for name in names] == of[2::2]
    chosen.clear()
    inputs = Inputs(block, of)
    for some, _ in blocks.pairs():
        inputs.hear(some)
    counts = torch.cat(chosen).flatten().bincount(minlength=4).tolist()
    assert counts[experts_models.NEVER] == 0
    for name, count in zip(names, counts, strict=True):
        gram, _, tokens = inputs.of(f"{name}down_proj")
        assert tokens == count
        assert (gram is None) == (count == 0)


def test_experts_of_two_blocks_hear_of_the_same_tokens():
    """x_0 - x is of one and the same token, though each block would have chosen otherwise."""
    here, there = experts_models.model(seed=0), experts_models.model(seed=1)
    heard: dict[str, list[torch.Tensor]] = {"here": [], "there": []}
    for name, weights in (("here", here), ("there", there)):
        take_apart(weights)
        expert = weights.model.layers[0].mlp.experts.get_submodule("1.up_proj")
        expert.register_forward_pre_hook(lambda _, args, name=name: heard[name].append(args[0]))
    hidden = torch.randn(50, 32, generator=torch.Generator().manual_seed(2))
    blocks = [weights.model.layers[0].mlp for weights in (here, there)]
    with torch.no_grad():
        with routed_as(blocks[1], blocks[0]):
            blocks[0](hidden[None])
            blocks[1](hidden[None] + 1)
        assert torch.allclose(heard["there"][-1], heard["here"][-1] + 1)
        blocks[1](hidden[None] + 1)
        assert heard["there"][-1].shape != heard["there"][-2].shape  # by itself it chooses otherwise


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen2_moe", "mixtral", "phimoe", "deepseek_v3"])
def test_scales_go_through_all_experts_and_change_nothing(family):
    blocks, block = first_block(experts_models.model(family))
    some = blocks.some()
    found = folds(block, groups(block, some), some)
    joint = next(one for one in found if any(name.endswith("experts.0.up_proj") for name in one.readers))
    assert {f"{block.name}.mlp.experts.{n}.gate_proj" for n in range(4)} <= joint.readers.keys()
    assert joint.others  # what chooses reads it, too
    assert joint.writer is block.module.post_attention_layernorm
    down = [one for one in found if any(".experts." in name and name.endswith("down_proj") for name in one.readers)]
    assert len(down) == 4
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        before = block(some)
        for one in found:
            width = next(iter(one.readers.values())).in_features
            assert fold(block, one, torch.rand(width, generator=draw) * 3 + 0.2, some)
        assert (block(some) - before).norm() < 1e-3 * before.norm()


def test_what_is_cut_within_an_expert_is_not_scaled():
    """DeepSeek V4 bounds what its gates let through."""
    weights = experts_models.model("deepseek_v4")
    take_apart(weights)
    assert not next(iter(experts_in(weights).values())).scales_what_it_writes()
