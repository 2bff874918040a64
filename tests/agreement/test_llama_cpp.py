"""llama.cpp itself with our files: the same tokens, logits, text and template. `make test-gguf` compiles and runs it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.data import ggml_vocab
from posttrain.data.ggml_match import read_vocab
from posttrain.data.ggml_tokens import ids_of
from posttrain.data.varied_texts import N_TEXTS, varied_texts
from posttrain.functional.divergence import plain_divergence
from posttrain.functional.pretokens import WAYS
from posttrain.models import llama_cpp
from posttrain.models.gguf_file import weights_of, write_gguf
from posttrain.models.gguf_types import FILE_TYPES
from posttrain.schema.errors import ModelError
from tests import gguf_models, tiny

pytestmark = [
    pytest.mark.gguf,
    pytest.mark.slow,
    pytest.mark.skipif(not llama_cpp.installed(), reason="llama.cpp is not installed: `make test-gguf` compiles it"),
]
SIZE = 720


def compared(folder: Path, weights: Any, tokenizer: Any, **named: str) -> dict[str, Any]:
    gguf_models.save(folder, weights, tokenizer, **named)
    vocab = read_vocab(folder, weights.config.vocab_size)
    write_gguf(folder / "m.gguf", weights.state_dict(), weights.config, vocab, "f32")
    return llama_cpp.compare(folder / "m.gguf", folder, weights, vocab)


@pytest.mark.parametrize("family", gguf_models.FAMILIES)
def test_every_family(tmp_path, family):
    weights = gguf_models.model(family, vocab_size=SIZE)
    weights.set_attn_implementation("eager")
    found = compared(tmp_path, weights, gguf_models.byte_level("qwen2"))
    assert found["texts"] >= 500
    rounded = family.startswith("gemma") or family == "gpt2"  # its GELU is a table in half precision
    assert found["logits_largest"] < (1e-2 if rounded else 1e-4)
    assert found["kl"] < (1e-6 if rounded else 1e-11)


@pytest.mark.parametrize("kind", gguf_models.POSITIONS)
def test_every_kind_of_positions(tmp_path, kind):
    weights = gguf_models.model("llama", vocab_size=SIZE, rope_parameters=gguf_models.POSITIONS[kind])
    assert compared(tmp_path, weights, gguf_models.byte_level("qwen2"))["kl"] < 1e-11


def test_a_model_with_factors_for_short_and_long_texts(tmp_path):
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0], "original_max_position_embeddings": 256,
    }  # fmt: skip
    weights = gguf_models.model("phi3", vocab_size=SIZE, rope_parameters=rope, original_max_position_embeddings=256)
    assert compared(tmp_path, weights, gguf_models.byte_level("qwen2"))["kl"] < 1e-11


@pytest.mark.parametrize(("prefix", "scheme"), [(True, ""), (False, ""), (True, "always"), (True, "first")])
def test_a_fallback_to_bytes(tmp_path, prefix, scheme):
    weights = gguf_models.model("llama", vocab_size=920, bos_token_id=1)
    found = compared(tmp_path, weights, gguf_models.falling_back(prefix, scheme=scheme), **gguf_models.SENTENCES)
    assert found["kl"] < 1e-11


def test_spaces_behind_special_tokens(tmp_path):
    weights = gguf_models.model("phi3", vocab_size=920, bos_token_id=1)
    compared(tmp_path, weights, gguf_models.like_phi3(), **gguf_models.SENTENCES)
    llama, source = llama_cpp.opened(tmp_path / "m.gguf"), ggml_vocab.read_source(tmp_path)
    for text in ("<|user|>  hello", "<|user|>\n hi<|end|>\n<|assistant|> x", "<|endoftext|> a", "<s> a</s> b"):
        assert llama_cpp.tokens_of(llama, text) == source.ids(text)
    llama.close()


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "wider heads": ("llama", {"head_dim": 16}),
    "one head of keys": ("llama", {"num_key_value_heads": 1}),
    "Mistral's window": ("mistral", {"sliding_window": 64}),
    "tied Qwen 2": ("qwen2", {"tie_word_embeddings": True}),
    "Phi's half turn": (
        "phi3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "Gemma's far positions": (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_with_drawn_vectors(tmp_path, variant):
    """Norms and biases are not what a fresh model has, so that a lost one shows."""
    family, changes = VARIANTS[variant]
    weights = gguf_models.model(family, vocab_size=SIZE, **changes)
    weights.set_attn_implementation("eager")
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in weights.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.2)
    assert compared(tmp_path, weights, gguf_models.byte_level("qwen2"))["kl"] < 1e-7


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_the_table_is_what_llama_cpp_does(tmp_path, way):
    """Text for text, by whatever name: a tokenizer is written with a way that is not its own, and the tokens foretold."""
    weights = gguf_models.model("llama", vocab_size=SIZE)
    gguf_models.save(tmp_path, weights, gguf_models.byte_level("gpt-2"))
    vocab = read_vocab(tmp_path, SIZE)
    path, source = tmp_path / "m.gguf", ggml_vocab.read_source(tmp_path)
    extra = {"tokenizer.ggml.pre": way.name}
    write_gguf(path, weights.state_dict(), weights.config, vocab, "f32", extra=extra)
    llama, cut = llama_cpp.opened(path), ggml_vocab.byte_level_cut(source, way)
    texts = varied_texts(tuple(source.added))
    differ = [text for text in texts if llama_cpp.tokens_of(llama, text) != ids_of(text, source.added, cut)]
    llama.close()
    assert differ == []


def saved(folder: Path) -> tuple[Any, Any]:
    """A model in a folder, with its vocabulary."""
    weights = gguf_models.model("llama", vocab_size=SIZE)
    gguf_models.save(folder, weights, gguf_models.byte_level("qwen2"))
    return weights, read_vocab(folder, SIZE)


def read_by_both(path: Path, weights: Any) -> tuple[torch.Tensor, ...]:
    """(T, V) each: what llama.cpp computes with a file, what is computed here, and by the model that it was written from, whose
    weights are those of the file afterwards."""
    llama, ids = llama_cpp.opened(path), list(range(10, 200))
    llama.eval(ids)
    theirs = torch.from_numpy(np.array(llama.scores[: len(ids)])).double()
    llama.close()
    dense = llama_cpp._dense(weights, ids)
    weights.load_state_dict(weights_of(path, weights.config))
    ours = llama_cpp._dense(weights, ids)
    return theirs, ours, dense


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_every_type_is_read_as_we_read_it(tmp_path, kind):
    """llama.cpp rounds what goes into a product as well, so that it is near, and not the same."""
    weights, vocab = saved(tmp_path)
    path = tmp_path / "m.gguf"
    write_gguf(path, weights.state_dict(), weights.config, vocab, kind)
    theirs, ours, dense = read_by_both(path, weights)
    apart = float(plain_divergence(theirs, ours).mean())
    assert apart < 1e-5
    if kind.startswith("q4"):
        assert apart < 0.1 * float(plain_divergence(ours, dense).mean())


@pytest.mark.parametrize("kind", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_the_bytes_are_those_of_llama_cpps_own_program(tmp_path, kind):
    import gguf
    import llama_cpp as library

    weights, vocab = saved(tmp_path)
    exact, ours, theirs = (tmp_path / f"{name}.gguf" for name in ("exact", "ours", "theirs"))
    write_gguf(exact, weights.state_dict(), weights.config, vocab, "f32")
    write_gguf(ours, weights.state_dict(), weights.config, vocab, kind, embedding=kind)
    options = library.llama_model_quantize_default_params()
    options.ftype, options.pure, options.nthread = FILE_TYPES[kind], True, 1
    assert library.llama_model_quantize(str(exact).encode(), str(theirs).encode(), options) == 0
    found = [{each.name: each for each in gguf.GGUFReader(path).tensors} for path in (ours, theirs)]
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        assert tensor.tensor_type == found[1][name].tensor_type, name
        assert np.array_equal(tensor.data, found[1][name].data), name


def test_what_differs_is_found(tmp_path):
    weights = gguf_models.model("llama", vocab_size=SIZE)
    gguf_models.save(tmp_path, weights, gguf_models.byte_level("gpt-2"))
    vocab, path = read_vocab(tmp_path, SIZE), tmp_path / "m.gguf"
    state = weights.state_dict()

    def written(**options: Any) -> None:
        write_gguf(path, state, weights.config, vocab, options.pop("kind", "f32"), **options)
        llama_cpp.compare(path, tmp_path, weights, vocab)

    with pytest.raises(ModelError, match=rf"of {N_TEXTS} texts have other tokens.*not called good"):
        written(extra={"tokenizer.ggml.pre": "qwen2"})
    with pytest.raises(ModelError, match=r"another chat template"):
        written(extra={"tokenizer.chat_template": tiny.CHAT + " "})
    with pytest.raises(ModelError, match=r"its eos is the token 3, and not 0"):
        written(extra={"tokenizer.ggml.eos_token_id": 3})
    with pytest.raises(ModelError, match=r"its logits are .* nats from the model's"):
        written(kind="q4_0")
    with pytest.raises(ModelError, match=r"it does not load \(.*unknown pre-tokenizer type: 'no such way'"):
        written(extra={"tokenizer.ggml.pre": "no such way"})
