"""Scales are folded where they can be, which is tried and not named, and nowhere else."""

import pytest
import torch

from posttrain.models.blocks import Blocks
from posttrain.models.folding import fold, folds
from posttrain.models.inputs import groups
from tests import tiny

IDS = torch.randint(6, tiny.VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
QKV, INNER = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
USUAL = {QKV: "input_layernorm", INNER: "post_attention_layernorm", ("down_proj",): "up_proj"}
FOUND = {
    "llama": USUAL,
    "mistral": USUAL,
    "qwen3": USUAL,
    "gemma": USUAL,  # norms of 1 + w
    "phi3": {("qkv_proj",): "input_layernorm", ("gate_up_proj",): "post_attention_layernorm"},
    "glm4": {QKV: "input_layernorm", ("gate_up_proj",): "post_attention_layernorm"},
    "gpt_neox": {("query_key_value",): "input_layernorm", ("dense_h_to_4h",): "post_attention_layernorm"},
}


def first_block(family: str, **changes):
    blocks = Blocks(tiny.model(family, **changes), IDS, torch.device("cpu"))
    return next(iter(blocks)), blocks.some()


def ends(names) -> tuple[str, ...]:
    return tuple(name.rpartition(".")[2] for name in names)


@pytest.mark.parametrize("family", FOUND)
def test_each_place_is_found(family):
    block, some = first_block(family)
    modules = {module: name for name, module in block.module.named_modules()}
    found = {ends(one.readers): ends([modules[one.writer]])[0] for one in folds(block, groups(block, some), some)}
    assert found == FOUND[family]


def test_values_are_scaled_where_each_head_has_its_own():
    block, some = first_block("llama", num_key_value_heads=4)
    found = {ends(one.readers) for one in folds(block, groups(block, some), some)}
    assert ("o_proj",) in found


@pytest.mark.parametrize("family", FOUND)
def test_folding_changes_nothing_that_is_computed(family):
    block, some = first_block(family)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        before = block(some)
        for one in folds(block, groups(block, some), some):
            width = next(iter(one.readers.values())).in_features
            assert fold(block, one, torch.rand(width, generator=draw) * 3 + 0.2, some)
        assert (block(some) - before).norm() < 1e-4 * before.norm()


def test_a_scale_that_would_change_something_is_taken_back():
    """A norm that something else reads as well."""
    block, some = first_block("llama")
    one = folds(block, groups(block, some), some)[0]
    readers = dict(list(one.readers.items())[:1])
    kept = {name: x.clone() for name, x in block.module.state_dict().items()}
    assert not fold(block, type(one)(readers, one.writer, one.offset), torch.full((32,), 3.0), some)
    for name, x in block.module.state_dict().items():
        assert torch.allclose(x, kept[name], rtol=1e-5), name
