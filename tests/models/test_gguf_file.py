"""GGUF files: read back they are the model, whatever its family, and what llama.cpp does not compute is refused."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.data.ggml_vocab import Kind, Vocab
from posttrain.functional.ggml_blocks import blocks_as_weights, round_blocks
from posttrain.models.gguf_families import FAMILIES, family_of
from posttrain.models.gguf_fields import context_of, model_fields, rope_tensors, vocab_fields
from posttrain.models.gguf_file import (
    Blocks,
    file_in,
    gguf_package,
    gguf_weights,
    read_gguf,
    weights_of,
    write_gguf,
)
from posttrain.models.gguf_types import type_of
from posttrain.schema.errors import MissingExtra, ModelError
from tests import gguf_models, tiny

TOKENS = tuple(f"t{i}" for i in range(tiny.VOCABULARY))
VOCAB = Vocab("gpt2", "gpt-2", TOKENS, (Kind.NORMAL,) * len(TOKENS), merges=("t0 t1",), special={"eos": 2, "pad": 1})
MOST = {"f32": 0.0, "f16": 1e-6, "bf16": 1e-4, "q8_0": 1e-4}  # nats


@cache
def made(family: str) -> Any:
    weights = gguf_models.model(family)
    weights.set_attn_implementation("eager")
    return weights


def logits(weights: Any) -> torch.Tensor:
    ids = torch.randint(tiny.VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return weights(input_ids=ids).logits.double()


def written(path: Path, weights: Any, kind: Any = "f32", **options: Any) -> Path:
    write_gguf(path, weights.state_dict(), weights.config, VOCAB, kind, **options)
    return path


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def loaded(path: Path, family: str) -> Any:
    """Another model of the family, with the weights of a file."""
    other = gguf_models.model(family, seed=1)
    other.set_attn_implementation("eager")
    said = other.load_state_dict(weights_of(path, other.config), strict=False)
    assert not said.unexpected_keys
    assert set(said.missing_keys) <= ({"lm_head.weight"} if other.config.tie_word_embeddings else set())
    other.tie_weights()
    return other


@pytest.mark.parametrize("family", gguf_models.FAMILIES)
@pytest.mark.parametrize("kind", MOST)
def test_read_back_it_is_the_model(tmp_path, family, kind):
    path = written(tmp_path / "m.gguf", made(family), kind)
    before, after = logits(made(family)), logits(loaded(path, family))
    near_ties = 10 if family == "qwen3_moe" else 1  # where rounding sends a token to another expert
    assert divergence(before, after) <= near_ties * MOST[kind]
    if kind == "f32":
        assert torch.equal(before, after)


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_0", "q5_1"])
def test_few_bits_keep_most_and_every_bit_helps(tmp_path, kind):
    weights = made("llama")
    path = written(tmp_path / "m.gguf", weights, kind)
    fine = written(tmp_path / "q8.gguf", weights, "q8_0")
    apart = divergence(logits(weights), logits(loaded(path, "llama")))
    assert divergence(logits(weights), logits(loaded(fine, "llama"))) < apart < 0.05
    assert path.stat().st_size < fine.stat().st_size


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "phi3"])
def test_transformers_reads_the_same_model(tmp_path, family):
    """Its own reader knows these four whatever their sizes."""
    from transformers import AutoModelForCausalLM

    weights = made(family)
    written(tmp_path / "m.gguf", weights)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, attn_implementation="eager"
    )
    assert torch.allclose(logits(theirs.eval()), logits(weights), atol=1e-5)


def test_integers_of_a_solver_are_written_as_they_are(tmp_path):
    """Those of queries and keys too, whose rows are put in another order."""
    weights = made("llama")
    names = [f"model.layers.0.{part}.weight" for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj")]
    draw = np.random.default_rng(0)
    blocks = {}
    for name in names:
        shape = tuple(weights.state_dict()[name].shape)
        d = draw.normal(size=(shape[0], shape[1] // 32)).astype(np.float16)
        blocks[name] = Blocks("q4_0", draw.integers(0, 16, shape), d)
    path = tmp_path / "m.gguf"
    types = write_gguf(path, weights.state_dict(), weights.config, VOCAB, "q8_0", blocks=blocks)
    found = weights_of(path, weights.config)
    for name in names:
        assert np.array_equal(found[name].numpy(), blocks_as_weights("q4_0", blocks[name].q, blocks[name].d))
    assert (types["blk.0.attn_q.weight"], types["blk.1.attn_q.weight"]) == ("q4_0", "q8_0")


def test_matrices_of_gpt2_stand_turned_in_a_solvers_blocks(tmp_path):
    weights, name = made("gpt2"), "transformer.h.0.mlp.c_fc.weight"
    dense = weights.state_dict()[name].numpy()  # (in, out)
    q, d, _ = round_blocks("q5_0", np.ascontiguousarray(dense.T))
    path = tmp_path / "m.gguf"
    write_gguf(path, weights.state_dict(), weights.config, VOCAB, "f32", blocks={name: Blocks("q5_0", q, d)})
    found = weights_of(path, weights.config)[name].numpy()
    assert found.shape == dense.shape
    assert np.abs(found - dense).max() < np.abs(dense).max() / 16


def test_each_tensor_has_its_type():
    assert type_of("blk.0.attn_norm.weight", (32,), "q4_0", "q8_0") == "f32"
    assert type_of("blk.0.ffn_gate_inp.weight", (4, 32), "q4_0", "q8_0") == "f32"
    assert type_of("token_embd.weight", (300, 32), "q4_0", "q8_0") == "q8_0"
    assert type_of("output.weight", (300, 32), "q4_0", "f16") == "f16"
    assert type_of("blk.0.ffn_down.weight", (32, 64), "q4_0", "q8_0") == "q4_0"
    assert type_of("blk.0.ffn_down.weight", (32, 48), "q4_0", "q8_0") == "f16"
    assert type_of("blk.0.ffn_down.weight", (32, 48), "bf16", "bf16") == "bf16"


def test_a_file_that_is_not_the_model_is_not_read(tmp_path):
    weights = made("llama")
    path = written(tmp_path / "m.gguf", weights)
    assert gguf_weights(tmp_path, weights.config).keys() == weights.state_dict().keys()
    with pytest.raises(ModelError, match=r"lacks \d+ tensors of its config.json, such as blk.2"):
        weights_of(path, gguf_models.model("llama", num_hidden_layers=3).config)
    with pytest.raises(ModelError, match=r"holds \d+ tensors that its config.json does not speak of, such as blk.1"):
        weights_of(path, gguf_models.model("llama", num_hidden_layers=1).config)
    with pytest.raises(ModelError, match=r"holds model.layers.0.mlp.gate_proj.weight as \(64, 32\)"):
        weights_of(path, gguf_models.model("llama", intermediate_size=96).config)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ModelError, match=r"cannot be read as a GGUF file .*Write it again"):
        read_gguf(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"cannot be read as a GGUF file"):
        read_gguf(path)


def test_the_smallest_file_is_loaded(tmp_path):
    with pytest.raises(ModelError, match=r"holds no GGUF file"):
        file_in(tmp_path)
    for kind in ("f32", "q4_0", "q8_0"):
        written(tmp_path / f"{kind}.gguf", made("llama"), kind)
    assert file_in(tmp_path).name == "q4_0.gguf"


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("llama", {"hidden_act": "relu"}, "its activation is 'relu'"),
        ("qwen2", {"use_sliding_window": True}, "sliding windows are on"),
        ("qwen3", {"attention_bias": True}, "attention_bias is on"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob is false"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "no mixture of experts"),
        ("gemma", {"tie_word_embeddings": False}, "the head is not the embeddings"),
        ("gemma2", {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar is 16 and 8 is computed"),
        ("gemma2", {"attn_logit_softcapping": None}, "its scores are not capped"),
        ("gemma3_text", {"layer_types": ["full_attention"] * 6}, "its windows do not follow"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scaled in an unusual way"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(family, changes, why):
    config = gguf_models.model(family).config
    assert family_of(config).arch
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(ModelError, match=rf"{why}.*Serve it with transformers or vLLM"):
        family_of(config)


def test_an_unknown_architecture_is_refused():
    with pytest.raises(
        ModelError, match=r"gpt_neox model cannot be written here: there are llama, .*convert_hf_to_gguf"
    ):
        family_of(tiny.model("gpt_neox").config)
    assert set(FAMILIES) == set(gguf_models.FAMILIES)


def fields(**changes: Any) -> dict[str, Any]:
    config = gguf_models.model("llama", **changes).config
    return model_fields(config, family_of(config), "q4_0")


def test_positions_are_said():
    assert fields()["llama.rope.freq_base"] == 1e4
    linear = fields(rope_parameters=gguf_models.POSITIONS["linear"])
    assert (linear["llama.rope.scaling.type"], linear["llama.rope.scaling.factor"]) == ("linear", 4.0)
    yarn = fields(rope_parameters=gguf_models.POSITIONS["yarn"])
    assert yarn["llama.rope.scaling.original_context_length"] == 128
    assert "llama.rope.scaling.attn_factor" not in yarn
    own = fields(rope_parameters=gguf_models.POSITIONS["yarn, its own attention"])
    assert own["llama.rope.scaling.attn_factor"] == pytest.approx(1.5 / (1 + 0.1 * np.log(4)))
    with pytest.raises(ModelError, match=r"Positions of the kind 'dynamic' .*there are default, linear, llama3, yarn"):
        fields(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})


def test_llama3_divides_each_frequency_as_transformers_does():
    weights = gguf_models.model("llama", rope_parameters=gguf_models.LLAMA3, head_dim=32)
    plain = gguf_models.model("llama", head_dim=32)
    (divisors,) = rope_tensors(weights.config, family_of(weights.config)).values()
    theirs = plain.model.rotary_emb.inv_freq / weights.model.rotary_emb.inv_freq
    assert np.allclose(divisors, theirs.numpy(), rtol=1e-5)
    assert (divisors[0], divisors[-1]) == (1.0, 8.0)
    assert rope_tensors(plain.config, family_of(plain.config)) == {}


def test_longer_texts_than_a_window_that_is_left_out_are_not_promised():
    assert context_of(gguf_models.model("mistral").config) == 512
    assert context_of(gguf_models.model("mistral", sliding_window=64).config) == 64
    assert context_of(gguf_models.model("gemma2", sliding_window=64).config) == 512  # llama.cpp computes this one


def test_the_tokenizer_is_said():
    said = vocab_fields(replace(VOCAB, special={"eos": 2, "eot": 3, "pad": 1}, template="{{ x }}", add_bos=True))
    assert said["tokenizer.ggml.eos_token_id"] == 2
    assert said["tokenizer.ggml.eot_token_id"] == 3
    assert said["tokenizer.ggml.padding_token_id"] == 1
    assert said["tokenizer.ggml.add_bos_token"] is True
    assert said["tokenizer.chat_template"] == "{{ x }}"
    assert "tokenizer.ggml.scores" not in said


def test_numbers_that_a_type_cannot_hold_are_refused(tmp_path):
    weights = gguf_models.model("llama")
    with torch.no_grad():
        weights.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    with pytest.raises(ModelError, match=r"up_proj.weight holds 1e\+06, which half precision cannot. Write `bf16`"):
        written(tmp_path / "m.gguf", weights, "f16")
    with torch.no_grad():
        weights.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"up_proj.weight holds numbers that are not finite"):
        written(tmp_path / "m.gguf", weights, "q8_0")


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r"`gguf` needs the package 'gguf'.*pip install 'posttrain\[gguf\]'"):
        gguf_package("`gguf`")
