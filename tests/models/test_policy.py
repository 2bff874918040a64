"""A policy gives the same log-probabilities packed, padded and from whole logits: on every family, with gradients."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from posttrain.data.batch import Batch
from posttrain.functional.layout import answer_order
from posttrain.models import attention
from posttrain.models.policy import Models, Policy
from tests import tiny

PAIRS = Batch((*tiny.trees(4, 2, seed=1, longest=150), *tiny.trees(2, 3, seed=4), *tiny.trees(1, 1, seed=5)))


def separately(model, batch):
    """The definition: each answer alone, whole logits, one row."""
    logps = []
    for _, t, branch in answer_order(batch.trees):
        tree = batch.trees[t]
        path = torch.tensor([tree.prompt + tree.branches[branch].tokens])
        table = model(input_ids=path, use_cache=False).logits[0].log_softmax(-1)
        start = len(tree.prompt)
        for i, (token, trained) in enumerate(zip(*_fields(tree.branches[branch]), strict=True)):
            if trained:
                logps.append(table[start + i - 1, token])
    return torch.stack(logps)


def _fields(branch):
    return branch.tokens, branch.trained


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_packed_equals_separate(family):
    model = tiny.model(family)
    policy = Policy(model, tiny.tokenizer())
    assert policy.layout == "packed", policy.why
    with torch.no_grad():
        assert (policy.logps(PAIRS) - separately(model, PAIRS)).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_gradients_agree_between_layouts(family):
    gradients = []
    for layout in ("packed", "padded", "logits"):
        model = tiny.model(family)
        Policy(model, tiny.tokenizer(), layout=layout).answer_logps(PAIRS).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for other in gradients[1:]:
        assert (gradients[0] - other).norm() / gradients[0].norm() < 1e-5


def test_pieces_without_gradient_keep_the_order():
    model = tiny.model()
    whole = Policy(model, tiny.tokenizer(), layout="packed", micro_tokens=10**6)
    pieces = Policy(model, tiny.tokenizer(), layout="packed", micro_tokens=40)
    with torch.no_grad():
        assert torch.allclose(whole.logps(PAIRS), pieces.logps(PAIRS), atol=1e-5)
        assert torch.allclose(whole.answer_logps(PAIRS), pieces.answer_logps(PAIRS), atol=1e-4)


def test_a_window_shorter_than_a_path_is_never_packed():
    model = tiny.model("mistral", sliding_window=8)
    policy = Policy(model, tiny.tokenizer())
    assert policy.layout != "packed"
    with torch.no_grad():
        assert (policy.logps(PAIRS) - separately(model, PAIRS)).abs().max() < 1e-5


def test_a_window_longer_than_the_probe_is_noticed_when_a_path_outgrows_it():
    model = tiny.model("mistral", sliding_window=64)
    policy = Policy(model, tiny.tokenizer())
    assert PAIRS.longest_path() > 64
    with torch.no_grad():
        assert (policy.logps(PAIRS) - separately(model, PAIRS)).abs().max() < 1e-5


def test_scaled_logits_need_the_whole_head():
    config = tiny.hf.CohereConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        pad_token_id=1, bos_token_id=None, eos_token_id=2, logit_scale=0.5,
    )  # fmt: skip
    model = tiny.hf.CohereForCausalLM(config)
    model.set_attn_implementation(attention.NAME)
    policy = Policy(model, tiny.tokenizer())
    assert policy.layout == "logits"
    with torch.no_grad():
        assert (policy.logps(PAIRS) - separately(model, PAIRS)).abs().max() < 1e-5


def test_the_reference_of_an_adapter_is_its_base():
    base, twin = tiny.model(seed=4), tiny.model(seed=4)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    tokenizer = tiny.tokenizer()
    models = Models(Policy(adapted, tokenizer, adapter="default"), Policy(adapted, tokenizer, adapter=None))
    alone = Policy(twin, tokenizer)
    with torch.no_grad():
        assert torch.allclose(models.reference.logps(PAIRS), alone.logps(PAIRS), atol=1e-6)
        assert not torch.allclose(models.policy.logps(PAIRS), alone.logps(PAIRS), atol=1e-2)


def test_another_adapter_answers_without_becoming_trainable():
    adapted = get_peft_model(tiny.model(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted.add_adapter("reference", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted.set_adapter("default")
    policy = Policy(adapted, tiny.tokenizer(), adapter="default")
    before = {name for name, p in adapted.named_parameters() if p.requires_grad}
    reference = Policy(adapted, tiny.tokenizer(), adapter="reference")
    with torch.no_grad():
        different = reference.logps(PAIRS) - policy.logps(PAIRS)
    assert different.abs().max() > 1e-2
    assert {name for name, p in adapted.named_parameters() if p.requires_grad} == before
