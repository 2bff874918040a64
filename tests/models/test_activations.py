"""Computing layers again, and letting activations wait elsewhere, change no gradient."""

import pytest
import torch
from torch import nn

from posttrain.data.batch import Batch
from posttrain.models import activations, attention
from posttrain.models.adapters import NAME, Adapter, attach
from posttrain.models.policy import Policy
from posttrain.schema.errors import MachineError, ModelError
from tests import tiny

ADAPTERS = ("lora", "prefix", "prompt", "p_tuning", "ia3")


def gradients(policy: Policy, batch: Batch) -> dict[str, torch.Tensor]:
    policy.model.zero_grad(set_to_none=True)
    policy.logps(batch).sum().backward()
    return {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


class Counter:
    """Counts how often a layer's attention is computed."""

    def __init__(self, model: nn.Module):
        self.calls = 0
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in ("self_attn", "attn", "attention") and "layers.0" in name + ".h.0":
                module.register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))


@pytest.mark.parametrize("layout", ["packed", "padded", "logits"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "glm4"])
def test_gradients_are_those_of_what_is_kept(family: str, layout: str):
    policy, batch = Policy(tiny.model(family), tiny.tokenizer(), layout=layout), Batch(tiny.trees(4, 2))
    kept = gradients(policy, batch)
    assert activations.checkpoint_layers(policy.model) == 2
    assert_equal(gradients(policy, batch), kept)
    assert not policy.model.training, "dropout stays off"


def test_dropout_stays_off_where_a_layer_has_some():
    model = tiny.model("gpt2", resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)
    policy, batch = Policy(model, tiny.tokenizer(), layout="packed"), Batch(tiny.trees(4, 1))
    kept = gradients(policy, batch)
    activations.checkpoint_layers(model)
    assert_equal(gradients(policy, batch), kept)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_on_frozen_embeddings_learns_all_the_same(kind: str):
    """With re-entrant checkpoints it gets no gradient at all, as the first layer's input asks for none."""
    tokenizer = tiny.tokenizer()
    model = attach(tiny.model(), Adapter.model_validate(kind), tokenizer, seed=0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    policy, batch = Policy(model, tokenizer, adapter=NAME), Batch(tiny.trees(4, 2))
    assert policy.layout == "packed"
    kept = gradients(policy, batch)
    assert kept
    assert all(float(gradient.norm()) > 0 for gradient in kept.values())
    activations.checkpoint_layers(model)
    assert_equal(gradients(policy, batch), kept)


def test_a_prefix_in_a_cache_that_grows_is_refused_with_a_cure():
    """Only where neither packed nor padded rows are exact: there PEFT itself puts the prefix before a text."""
    model = attach(tiny.model(), Adapter.model_validate("prefix"), tiny.tokenizer(), seed=0)
    policy = Policy(model, tiny.tokenizer(), adapter=NAME, layout="logits")
    activations.checkpoint_layers(model)
    with pytest.raises(ModelError, match="Leave `gradient_checkpointing` out"):
        policy.logps(Batch(tiny.trees(2, 1)))


def kept_bytes(policy: Policy, batch: Batch) -> int:
    """Bytes of all tensors that wait for the backward pass, weights left out, each storage once."""
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    seen: dict[int, tuple[int, torch.Tensor]] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes(), x
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        policy.logps(batch)
    return sum(size for size, _ in seen.values())


def test_only_inputs_of_layers_are_kept():
    policy = Policy(tiny.model(num_hidden_layers=4), tiny.tokenizer(), layout="packed")
    batch = Batch(tiny.trees(8, 1))
    before = kept_bytes(policy, batch)
    activations.checkpoint_layers(policy.model)
    n, width = batch.n_tokens(), policy.model.config.hidden_size
    head = kept_bytes(policy, batch) - 4 * 4 * n * width  # four layers' inputs in fp32; what is left is of the head
    assert 0 < head < before / 3


def test_nothing_is_computed_twice_without_a_gradient():
    policy = Policy(tiny.model(), tiny.tokenizer(), layout="packed")
    counter = Counter(policy.model)
    activations.checkpoint_layers(policy.model)
    policy.score(Batch(tiny.trees(2, 1)))
    assert counter.calls == 1
    gradients(policy, Batch(tiny.trees(2, 1)))
    assert counter.calls == 3


def test_the_plan_of_the_forward_pass_is_that_of_the_second_one():
    """Another batch is laid out between a forward pass and its backward pass."""
    policy = Policy(tiny.model(), tiny.tokenizer(), layout="packed")
    one, other = Batch(tiny.trees(4, 2, seed=1)), Batch(tiny.trees(4, 2, seed=2))
    kept = gradients(policy, one)
    activations.checkpoint_layers(policy.model)
    policy.model.zero_grad(set_to_none=True)
    loss = policy.logps(one).sum()
    policy.score(other)
    with attention.packed_as(attention.plan_of([])):
        loss.backward()
    assert_equal({name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}, kept)


def test_a_model_without_layers_is_refused_with_a_cure():
    with pytest.raises(ModelError, match="Leave `gradient_checkpointing` out"):
        activations.checkpoint_layers(nn.Linear(2, 2))


def test_offloading_changes_no_gradient_and_leaves_weights_where_they_are():
    policy, batch = Policy(tiny.model(), tiny.tokenizer(), layout="packed"), Batch(tiny.trees(4, 2))
    kept = gradients(policy, batch)
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    hooks = activations.offloaded(policy.model.parameters(), least_bytes=0)
    moved = hooks.pack_hook(torch.ones(3))
    assert isinstance(moved, tuple)
    assert torch.equal(hooks.unpack_hook(moved), torch.ones(3))
    weight = next(policy.model.parameters())
    assert hooks.pack_hook(weight).data_ptr() in weights
    policy.model.zero_grad(set_to_none=True)
    with hooks:
        loss = policy.logps(batch).sum()
    loss.backward()
    assert_equal({name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}, kept)


def test_small_tensors_are_not_worth_the_way():
    hooks = activations.offloaded([], least_bytes=100)
    assert isinstance(hooks.pack_hook(torch.ones(24)), torch.Tensor)
    assert isinstance(hooks.pack_hook(torch.ones(25)), tuple)


def test_offloading_without_a_gpu_is_refused_with_a_cure():
    with pytest.raises(MachineError, match=r"on cpu. Leave it out"):
        activations.require_offloading(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offloading_takes_activations_out_of_a_gpu():
    model = tiny.model(hidden_size=256, intermediate_size=1024, num_hidden_layers=4).cuda()
    policy, batch = Policy(model, tiny.tokenizer(), layout="packed"), Batch(tiny.trees(64, 1, longest=60))
    peaks, found = [], []
    for policy.offload in (False, True):
        torch.cuda.reset_peak_memory_stats()
        found.append(gradients(policy, batch))
        peaks.append(torch.cuda.max_memory_allocated())
    assert_equal(found[1], found[0])
    assert peaks[1] < 0.7 * peaks[0]
