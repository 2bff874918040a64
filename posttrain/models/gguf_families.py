"""Which models llama.cpp knows, and what each needs on the way into a GGUF file: one table.

A tensor goes into the file as it is, or laid out anew:

    rows      llama.cpp turns neighbouring pairs of a head's rows, transformers those half a head apart
    plus_one  a norm that multiplies by (1 + w) is stored as 1 + w
    turned    GPT-2 keeps (in, out); files keep (out, in)
    halves    gate and up of all experts, one tensor in transformers, are two in the file

An architecture that is none of these, or a setting that llama.cpp's graph of it does not compute, is refused: such a
file would load, and write nonsense.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from posttrain.functional.ggml_blocks import Array
from posttrain.schema.errors import ModelError

Check = Callable[[Any], str | None]
GELU_TANH = frozenset({"gelu_new", "gelu_pytorch_tanh", "gelu_fast"})
ROWS_Q, ROWS_K, PLUS_ONE, TURNED, HALVES = "rows_q", "rows_k", "plus_one", "turned", "halves"


@dataclass(frozen=True)
class Family:
    """`arch` is llama.cpp's name and `laid` what happens to a tensor by how its name ends; `activations` are those that
    its graph computes, `checks` say what else of a configuration it does not."""

    arch: str
    laid: Mapping[str, str] = field(default_factory=dict)
    activations: frozenset[str] = frozenset({"silu"})
    checks: tuple[Check, ...] = ()

    def way(self, name: str) -> str:
        """How the tensor of a name is laid out; empty for as it is."""
        return next((way for ending, way in self.laid.items() if name.endswith(ending)), "")


def _whole_heads(config: Any) -> str | None:
    width, heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // heads
    return f"{heads} heads of {head} are not the width {width}" if heads * head != width else None


def _every_layer_sees_all(config: Any) -> str | None:
    return "sliding windows are on" if getattr(config, "use_sliding_window", False) else None


def _tied(config: Any) -> str | None:
    return None if config.tie_word_embeddings else "the head is not the embeddings"


def _scaled_by_head(config: Any) -> str | None:
    asked, head = config.query_pre_attn_scalar, config.head_dim
    large = {"gemma2": 46, "gemma3_text": 62}[config.model_type]  # the 27B models, which llama.cpp tells by their depth
    wanted = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == large else head
    return f"query_pre_attn_scalar is {asked} and {wanted} is computed" if asked != wanted else None


def _capped(config: Any) -> str | None:
    return "its scores are not capped" if config.attn_logit_softcapping is None else None


def _uncapped(config: Any) -> str | None:
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return "its scores are capped" if capped else None


def _windows_every(n: int) -> Check:
    def check(config: Any) -> str | None:
        wanted = [
            "full_attention" if (i + 1) % n == 0 else "sliding_attention" for i in range(config.num_hidden_layers)
        ]
        return None if list(config.layer_types) == wanted else f"its windows do not follow the pattern of {n} layers"

    return check


def _causal(config: Any) -> str | None:
    return "it attends in both directions" if getattr(config, "use_bidirectional_attention", False) else None


def _every_layer_is_a_mixture(config: Any) -> str | None:
    if not config.norm_topk_prob:
        return "norm_topk_prob is false, and llama.cpp always divides by the sum of the chosen experts' shares"
    if config.decoder_sparse_step != 1 or config.mlp_only_layers:
        return "some of its layers are no mixture of experts"
    return None


def _plain_scores(config: Any) -> str | None:
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        return "its attention scores are scaled in an unusual way"
    return "it attends to an encoder" if config.add_cross_attention else None


def _no_bias(name: str) -> Check:
    def check(config: Any) -> str | None:
        return f"{name} is on" if getattr(config, name, False) else None

    return check


PERMUTED = {f".{part}_proj.{kind}": f"rows_{part}" for part in "qk" for kind in ("weight", "bias")}
NORMED = {"norm.weight": PLUS_ONE}
GEMMA: Mapping[str, Any] = {"laid": NORMED, "activations": GELU_TANH}
BIAS = _no_bias("attention_bias")
FAMILIES: dict[str, Family] = {
    "llama": Family("llama", PERMUTED),
    "mistral": Family("llama", PERMUTED),
    "qwen2": Family("qwen2", checks=(_whole_heads, _every_layer_sees_all)),
    "qwen3": Family("qwen3", checks=(BIAS, _every_layer_sees_all)),
    "qwen3_moe": Family(
        "qwen3moe", {".gate_up_proj": HALVES}, checks=(BIAS, _every_layer_sees_all, _every_layer_is_a_mixture)
    ),
    "gemma": Family("gemma", **GEMMA, checks=(BIAS, _tied)),
    "gemma2": Family("gemma2", **GEMMA, checks=(BIAS, _tied, _capped, _scaled_by_head, _windows_every(2))),
    "gemma3_text": Family("gemma3", **GEMMA, checks=(BIAS, _causal, _uncapped, _scaled_by_head, _windows_every(6))),
    "phi3": Family("phi3", checks=(_whole_heads,)),
    "gpt2": Family(
        "gpt2",
        dict.fromkeys((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"), TURNED),
        GELU_TANH,
        (_plain_scores,),
    ),
}


def family_of(config: Any) -> Family:
    """The table's entry for a configuration. Raises ModelError for a model that llama.cpp would not compute as it is."""
    kind = config.model_type
    if kind not in FAMILIES:
        raise ModelError(
            f"A GGUF file of a {kind} model cannot be written here: there are {', '.join(FAMILIES)}. Use llama.cpp's own "
            "convert_hf_to_gguf.py, or take a model of one of these."
        )
    family = FAMILIES[kind]
    found = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    found = found or getattr(config, "activation_function", None)
    why = None if found in family.activations else f"its activation is {found!r}"
    for check in family.checks:
        why = why or check(config)
    if why:
        raise ModelError(
            f"llama.cpp does not compute this {kind} model as it is: {why}. Serve it with transformers or vLLM, or take "
            "a model without that."
        )
    return family


@dataclass(frozen=True)
class Laid:
    """How one tensor of transformers stands in the file: under which `names`, and how it is laid out."""

    names: tuple[str, ...]
    way: str = ""
    heads: int = 1

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each array in the file, for a tensor of a shape."""
        if self.way == TURNED:
            return shape[::-1]
        return (shape[0], shape[1] // 2, *shape[2:]) if self.way == HALVES else shape

    def there(self, tensor: Array, *, turn: bool = True) -> tuple[Array, ...]:
        """The arrays for the file. `turn` is False for integers and scales of a solver, which stand (out, in) already."""
        if self.way in (ROWS_Q, ROWS_K):
            return (_interleaved(tensor, self.heads),)
        if self.way == PLUS_ONE:
            return (tensor + np.float32(1),)
        if self.way == TURNED:
            return (np.ascontiguousarray(tensor.T) if turn else tensor,)
        if self.way == HALVES:
            return tuple(np.ascontiguousarray(half) for half in np.split(tensor, 2, axis=1))
        return (tensor,)

    def back(self, arrays: tuple[Array, ...]) -> Array:
        """The tensor of transformers from the arrays of a file."""
        if self.way in (ROWS_Q, ROWS_K):
            return _apart(arrays[0], self.heads)
        if self.way == PLUS_ONE:
            return arrays[0] - np.float32(1)
        if self.way == TURNED:
            return np.ascontiguousarray(arrays[0].T)
        if self.way == HALVES:
            return np.concatenate(arrays, axis=1)
        return arrays[0]


def layout_of(name: str, config: Any, family: Family, names: Any) -> Laid:
    """How a tensor is laid out; `names` is gguf's map. Raises ModelError for a tensor that has no name in the file."""
    way = family.way(name)
    theirs = [name.replace("gate_up_proj", part) for part in ("gate_proj", "up_proj")] if way == HALVES else [name]
    found = [names.get_name(each, try_suffixes=(".weight", ".bias")) for each in theirs]
    if None in found:
        raise ModelError(
            f"The tensor {name!r} has no place in a GGUF file of {family.arch} models. Use a model of that architecture "
            "without additions, or llama.cpp's own convert_hf_to_gguf.py."
        )
    ending = "" if theirs[0].endswith((".weight", ".bias")) else ".weight"
    heads = {ROWS_Q: "num_attention_heads", ROWS_K: "num_key_value_heads"}.get(way)
    return Laid(tuple(each + ending for each in found), way, int(getattr(config, heads)) if heads else 1)


def _interleaved(rows: Array, heads: int) -> Array:
    """Rows of each head, half a head apart, as neighbours: 0, h/2, 1, h/2 + 1, …"""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


def _apart(rows: Array, heads: int) -> Array:
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))
