"""What a model is made of, read from config.json and the headers of its safetensors files: no weight is loaded.

A header is eight bytes that give its length, then JSON: name -> dtype, shape, place
(https://huggingface.co/docs/safetensors). Shapes tell what configurations of fifty families call by fifty names: how
many weights there are, which matrices read the same input, whether the inner layer is gated.
"""

import json
import math
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.schema.errors import ModelError

NAMES = {  # what we say -> what configurations say
    "width": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
}
OUTPUT = re.compile(r"\b(o|o_proj|out_proj|c_proj|dense|wo|w2|dense_4h_to_h|down_proj|fc2)$")
ON_HEADS = re.compile(r"[qk]_?(layer)?norm")
ACTIVATION = ("hidden_activation", "hidden_act", "activation_function", "dense_act_fn", "feed_forward_proj")
TRANSPOSED = ("c_attn", "c_proj", "c_fc")  # GPT-2 keeps (in, out)
LONGEST_HEADER = 100 << 20  # bytes; the format's own limit


@dataclass(frozen=True)
class Matrix:
    """A linear map inside the layers. `share` of the tokens reach it: all, but for the experts of a mixture."""

    name: str
    n_out: int
    n_in: int
    share: float = 1.0

    @property
    def is_output(self) -> bool:
        """Whether it is the last one of its part of a layer."""
        return bool(OUTPUT.search(self.name))

    @property
    def in_attention(self) -> bool:
        return "att" in self.name.rpartition(".")[0].lower()

    @property
    def site(self) -> tuple[str, bool]:
        """The same for matrices that read the same tensor, as query, key and value do."""
        return self.name.rpartition(".")[0], self.is_output


@dataclass(frozen=True)
class Anatomy:
    """The numbers of a model that memory depends on. Widths are summed over all layers: of queries; of queries,
    keys and values; of what the inner layers' last matrices read; of the norms on the stream; of those on queries and
    keys. `context` is the longest text that it has positions for."""

    width: int
    layers: int
    heads: int
    vocabulary: int
    weights: int
    matrices: tuple[Matrix, ...]
    queries: int
    attended: int
    inner: int
    norms: int
    head_norms: int
    root_mean_square: bool
    gated: bool
    activation: str
    context: int


def read_anatomy(folder: Path) -> Anatomy:
    """The anatomy of the model in a folder. Raises ModelError where its files do not tell."""
    config, shapes = _config(folder), dict(shapes_in(folder))
    if config.get("is_encoder_decoder"):
        raise ModelError(
            "What an encoder-decoder keeps for its backward pass is not estimated. `run` tells on the way."
        )
    if config.get("tie_word_embeddings"):
        shapes.pop("lm_head.weight", None)  # some programs write it twice
    matrices = tuple(_matrices(config, shapes))
    attention = [m for m in matrices if m.in_attention]
    inner = [m for m in matrices if not m.in_attention]
    n_attended = sum(m.n_out for m in attention if not m.is_output)
    n_queries = sum(m.n_in for m in attention if m.is_output)
    n_inner = sum(m.n_in * m.share for m in inner if m.is_output)
    norms = {name: math.prod(shape) for name, shape in shapes.items() if _in_layer(name, shape, 1)}
    on_heads = [name for name in norms if ON_HEADS.search(name)]
    return Anatomy(
        **{ours: _number(config, theirs, folder) for ours, theirs in NAMES.items()},
        weights=sum(map(math.prod, shapes.values())),
        matrices=matrices,
        queries=n_queries,
        attended=n_attended,
        inner=round(n_inner),
        norms=sum(n for name, n in norms.items() if name not in on_heads),
        head_norms=(n_attended + n_queries) // 2 if on_heads else 0,  # queries and keys: (q + k + v + q) / 2
        root_mean_square=not any(name.removesuffix("weight") + "bias" in shapes for name in norms),
        gated=sum(m.n_out * m.share for m in inner if not m.is_output) > 1.5 * n_inner,
        activation=str(_any(config, ACTIVATION) or "silu"),
        context=int(_any(config, ("max_position_embeddings", "n_positions")) or sys.maxsize),
    )


def _in_layer(name: str, shape: tuple[int, ...], dimensions: int) -> bool:
    """Whether a tensor is a weight of the repeated layers, which have a number in their names."""
    return len(shape) == dimensions and name.endswith(".weight") and bool(re.search(r"\.\d+\.", name))


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return {**found, **found.get("text_config", {})}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder}/config.json cannot be read ({error}). Copy the model again.") from error


def _any(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _number(config: Mapping[str, Any], names: tuple[str, ...], folder: Path) -> int:
    found = _any(config, names)
    if not isinstance(found, int) or found < 1:
        raise ModelError(
            f"{folder}/config.json holds no number {names[0]!r}. Its memory cannot be told before it is loaded."
        )
    return found


def shapes_in(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor in a folder's safetensors files."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ModelError(f"{folder} has no safetensors files, whose headers tell a model's size. Save it with them.")
    for path in paths:
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > LONGEST_HEADER:
                    raise ValueError(f"a header of {length} bytes")
                header = json.loads(file.read(length))
            yield from ((name, tuple(entry["shape"])) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} has no header that can be read ({error}). Copy the model again.") from error


def _matrices(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Matrix]:
    """Every linear map inside the layers."""
    experts = _any(config, ("num_experts", "num_local_experts", "n_routed_experts"))
    chosen = _any(config, ("num_experts_per_tok", "num_experts_per_token")) or 1
    for name, shape in shapes.items():
        if _in_layer(name, shape, 2):
            called = name.removesuffix(".weight")
            turned = config.get("model_type") == "gpt2" and called.endswith(TRANSPOSED)
            n_out, n_in = shape[::-1] if turned else shape
            yield Matrix(called, n_out, n_in, chosen / experts if experts and ".experts." in name else 1.0)
