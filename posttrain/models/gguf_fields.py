"""What a GGUF file says of a model beside its tensors: sizes, positions, tokenizer, chat template.

Keys are those of the format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Positions turn as

    default  theta^(-2i / d)          linear  positions divided by a factor         yarn  its own blend of both
    llama3   each frequency divided by a factor of its own, in the tensor `rope_freqs.weight`
    longrope two such tensors, for texts up to the trained length and beyond it (Phi-3 alone)
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from posttrain.data.ggml_vocab import Vocab
from posttrain.functional.ggml_blocks import Array
from posttrain.schema.errors import ModelError

from .gguf_families import Family
from .gguf_types import FILE_TYPES

ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def model_fields(config: Any, family: Family, kind: str) -> dict[str, Any]:
    """Sizes and positions by key; a float is written in fp32, an int as a 32-bit number without sign."""
    heads, width = config.num_attention_heads, config.hidden_size
    said: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": context_of(config),
        "embedding_length": width,
        "block_count": config.num_hidden_layers,
        "attention.head_count": heads,
    }
    if family.arch == "gpt2":
        said |= {
            "feed_forward_length": config.n_inner or 4 * width,
            "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
        }
    else:
        head = getattr(config, "head_dim", None) or width // heads
        said |= {
            "feed_forward_length": config.intermediate_size,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
            "attention.key_length": head,
            "attention.value_length": head,
            **_positions(config, family, head),
        }
    said |= _particular(config, family)
    common = {"general.file_type": FILE_TYPES[kind], "general.quantization_version": 2}
    return common | {f"{family.arch}.{key}": value for key, value in said.items()}


def context_of(config: Any) -> int:
    """The longest text that llama.cpp computes as the model does: its positions, or its window where it has one that
    llama.cpp leaves out."""
    longest = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None)
    return min(longest, int(window)) if window and config.model_type in ("mistral", "phi3") else longest


def _particular(config: Any, family: Family) -> dict[str, Any]:
    if family.arch == "qwen3moe":
        return {
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }
    if family.arch in ("gemma2", "gemma3"):
        said: dict[str, Any] = {"attention.sliding_window": config.sliding_window}
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            if (cap := getattr(config, key, None)) is not None:
                said[key] = float(cap)
        return said
    return {"attention.sliding_window": 0} if family.arch == "phi3" else {}  # older programs ask for it


def _rope(config: Any) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """How positions turn: everywhere, and in windows where that differs."""
    found = config.rope_parameters
    return (found["full_attention"], found["sliding_attention"]) if "full_attention" in found else (found, None)


def _positions(config: Any, family: Family, head: int) -> dict[str, Any]:
    rope, in_windows = _rope(config)
    turned = int(head * rope.get("partial_rotary_factor", 1.0))
    kind = rope.get("rope_type", "default")
    said: dict[str, Any] = {"rope.dimension_count": turned, "rope.freq_base": float(rope["rope_theta"])}
    if in_windows:
        said["rope.freq_base_swa"] = float(in_windows["rope_theta"])
    windowed = in_windows and in_windows.get("rope_type", "default") != "default"
    fitting = {"default", "linear", "yarn", *(("llama3",) if family.arch == "llama" else ())}
    fitting |= {"longrope"} if family.arch == "phi3" else set()
    partly = turned != head and family.arch != "phi3"
    if kind not in fitting or windowed or partly or rope.get("mscale") or rope.get("mscale_all_dim"):
        raise ModelError(
            f"Positions of the kind {kind!r} ({dict(rope)}) cannot be said in a GGUF file of {family.arch} models: "
            f"there are {', '.join(sorted(fitting))}. Take them out of config.json (`rope_parameters`) for texts up to "
            "the length that the model was first trained on."
        )
    if kind == "linear":
        said |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    elif kind == "yarn":
        said |= _yarn(rope, config)
    elif kind == "longrope":
        said |= _longrope(rope, config)
    return said


def _yarn(rope: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """YaRN (Peng et al. 2023, arXiv 2309.00071); llama.cpp multiplies by 1 + 0.1 ln(factor) itself."""
    factor = float(rope["factor"])
    said = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": int(
            rope.get("original_max_position_embeddings") or config.max_position_embeddings
        ),
        "rope.scaling.yarn_beta_fast": float(rope.get("beta_fast") or 32),
        "rope.scaling.yarn_beta_slow": float(rope.get("beta_slow") or 1),
    }
    if (asked := rope.get("attention_factor")) is not None:
        said["rope.scaling.attn_factor"] = float(asked) / (1 + 0.1 * math.log(factor))
    return said


def _longrope(rope: Mapping[str, Any], config: Any) -> dict[str, Any]:
    first = _first_length(rope, config)
    factor = rope.get("factor") or config.max_position_embeddings / first
    usual = math.sqrt(1 + math.log(factor) / math.log(first)) if factor > 1 else 1.0
    asked = rope.get("attention_factor")
    return {
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": first,
        "rope.scaling.attn_factor": float(usual if asked is None else asked),
    }


def _first_length(rope: Mapping[str, Any], config: Any) -> int:
    found = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(found or config.max_position_embeddings)


def rope_tensors(config: Any, family: Family) -> dict[str, Array]:
    """Divisors of the frequencies, in fp32, where positions need them: (d / 2,) each."""
    if family.arch == "gpt2":
        return {}
    rope, _ = _rope(config)
    if rope.get("rope_type") == "longrope":
        return {f"rope_factors_{n}.weight": np.array(rope[f"{n}_factor"], dtype=np.float32) for n in ("long", "short")}
    if rope.get("rope_type") != "llama3":
        return {}
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    waves = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, head, 2, dtype=np.float64) / head)
    first, factor = float(_first_length(rope, config)), float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    blend = ((first / waves - low) / (high - low)).clip(
        0, 1
    )  # 0 for waves too long to have been seen, 1 for short ones
    return {"rope_freqs.weight": (1 / ((1 - blend) / factor + blend)).astype(np.float32)}


def vocab_fields(vocab: Vocab) -> dict[str, Any]:
    """Everything of a tokenizer by key."""
    named = {"bos": "bos", "eos": "eos", "eot": "eot", "unk": "unknown", "pad": "padding"}
    said: dict[str, Any] = {
        "model": vocab.model,
        "pre": vocab.pre,
        "tokens": list(vocab.tokens),
        "token_type": [int(kind) for kind in vocab.kinds],
        **({"scores": [float(score) for score in vocab.scores]} if vocab.scores else {}),
        **({"merges": list(vocab.merges)} if vocab.merges else {}),
        **{f"{named[name]}_token_id": id for name, id in vocab.special.items()},
        "add_bos_token": vocab.add_bos,
        "add_eos_token": vocab.add_eos,
        "add_space_prefix": vocab.prefix,
    }
    found = {f"tokenizer.ggml.{key}": value for key, value in said.items()}
    return found | ({"tokenizer.chat_template": vocab.template} if vocab.template else {})
