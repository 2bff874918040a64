"""Block by block is the whole model, and what its matrices read is counted once for those that read the same."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from posttrain.models.activations import layers
from posttrain.models.blocks import Block, Blocks
from posttrain.models.inputs import Inputs, groups
from posttrain.schema.errors import ModelError
from tests import tiny

CPU = torch.device("cpu")
IDS = torch.randint(6, tiny.VOCABULARY, (5, 9), generator=torch.Generator().manual_seed(0))


def last_hidden(model: nn.Module) -> torch.Tensor:
    """(N, T, D): what the last block writes."""
    found: list[torch.Tensor] = []
    last = [module for _, module in layers(model)][-1]
    hook = last.register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        model(input_ids=IDS)
    hook.remove()
    return found[0]


@torch.no_grad()
def written(block: Block, blocks: Blocks) -> torch.Tensor:
    """(N, T, D): what a block gives for all texts."""
    return torch.cat([block(some) for some, _ in blocks.pairs()])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_walk_is_a_pass_through_the_model(family, monkeypatch):
    monkeypatch.setattr(
        "posttrain.models.blocks.TOKENS_ON_CPU", 2 * IDS.shape[1]
    )  # two texts at once, and one in the end
    model = tiny.model(family)
    blocks = Blocks(model, IDS, CPU)
    for block in blocks:
        last = written(block, blocks)
    assert torch.allclose(last, last_hidden(model), atol=1e-5)


def test_a_block_reads_what_those_before_it_have_become():
    model = tiny.model()
    blocks = Blocks(model, IDS, CPU)
    for n, block in enumerate(blocks):
        if n == 0:
            for linear in block.linears().values():
                nn.init.zeros_(linear.weight)
        last = written(block, blocks)
    assert torch.allclose(last, last_hidden(model), atol=1e-5)


def test_sliding_windows_are_kept():
    model = tiny.model("mistral", sliding_window=3)
    blocks = Blocks(model, IDS, CPU)
    for block in blocks:
        last = written(block, blocks)
    assert torch.allclose(last, last_hidden(model), atol=1e-5)


def everything(blocks: Blocks, block: Block, beside: Block | None = None) -> Inputs:
    inputs = Inputs(block, groups(block, blocks.some()), beside)
    for some, there in blocks.pairs():
        inputs.hear(some, there)
    return inputs


def read_by(block: Block, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
    """(tokens, C): all that reaches each matrix."""
    caught = {}
    hooks = [
        linear.register_forward_pre_hook(lambda _, args, name=name: caught.update({name: args[0].flatten(0, 1)}))
        for name, linear in block.linears().items()
    ]
    with torch.no_grad():
        block(hidden)
    for hook in hooks:
        hook.remove()
    return caught


def test_matrices_that_read_the_same_are_together():
    blocks = Blocks(tiny.model(), IDS, CPU)
    found = groups(next(iter(blocks)), blocks.some())
    ends = [[name.rpartition(".")[2] for name in names] for names in found]
    assert ends == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


@pytest.mark.parametrize("part", [13, 512])  # columns that are summed at once
def test_what_is_read_is_summed_over_all_tokens(part, monkeypatch):
    monkeypatch.setattr("posttrain.models.inputs.PART", part)
    monkeypatch.setattr("posttrain.models.blocks.TOKENS_ON_CPU", 2 * IDS.shape[1])
    blocks = Blocks(tiny.model(), IDS, CPU)
    block = next(iter(blocks))
    inputs = everything(blocks, block)
    for name, x in read_by(block, blocks.states).items():
        gram, drift, tokens = inputs.of(name)
        assert (tokens, drift) == (IDS.numel(), None)
        assert gram is not None
        assert torch.allclose(gram, x.t() @ x, rtol=1e-4, atol=1e-4)
        largest = inputs.largest_of([name])
        assert largest is not None
        assert torch.allclose(largest, x.abs().amax(0))


def test_what_is_read_is_held_beside_what_was_read_before_anything_was_done():
    blocks = Blocks(tiny.model(), IDS, CPU, both=True)
    for n, block in enumerate(blocks):
        beside = replace(block, module=deepcopy(block.module))
        with torch.no_grad():
            if n == 0:
                for linear in block.linears().values():
                    linear.weight.mul_(1.1)
                assert blocks.untouched is not None
                blocks.pass_untouched(beside)
                continue
        inputs = everything(blocks, block, beside)
        now, before = read_by(block, blocks.states), read_by(beside, blocks.untouched)
        for name, x in now.items():
            drift = inputs.of(name)[1]
            assert drift is not None
            assert torch.allclose(drift, (before[name] - x).t() @ x, rtol=1e-3, atol=1e-3)
            assert drift.abs().max() > 0


def test_a_pass_goes_no_further_than_what_is_asked_for():
    blocks = Blocks(tiny.model(), IDS, CPU)
    block = next(iter(blocks))
    block.module.mlp.register_forward_pre_hook(lambda *_: pytest.fail("the inner layer was computed"))
    inputs = Inputs(block, [["model.layers.0.self_attn.o_proj"]])
    inputs.hear(blocks.states)
    assert inputs.of("model.layers.0.self_attn.o_proj")[2] == IDS.numel()


def test_what_nothing_reached_is_unknown_and_alone():
    model = tiny.model()
    first = next(iter(layers(model)))[1]
    first.spare = nn.Linear(2, 2)
    blocks = Blocks(model, IDS, CPU)
    block = next(iter(blocks))
    assert groups(block, blocks.some())[-1] == ["model.layers.0.spare"]
    assert everything(blocks, block).of("model.layers.0.spare") == (None, None, 0)


def test_a_model_without_layers_is_refused():
    with pytest.raises(ModelError, match=r"Sequential has no repeated layers.*Name a decoder"):
        Blocks(nn.Sequential(nn.Linear(2, 2)), IDS, CPU)


def test_layers_that_do_not_follow_one_another_are_refused():
    model = tiny.model()
    second = [module for _, module in layers(model)][1]
    second.register_forward_pre_hook(lambda _, args, kwargs: ((args[0] + 1, *args[1:]), kwargs), with_kwargs=True)
    with pytest.raises(ModelError, match=r"model.layers.1 does not read what the layer before it wrote"):
        Blocks(model, IDS, CPU)
