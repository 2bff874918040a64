"""The types of GGUF files and of their tensors, and what a tensor becomes whose rows do not fit.

A type such as q4_0 or q4_k is that of a tensor; a file of it has every matrix in it. A blend such as q4_k_m is what llama.cpp makes
of a file: a type for each matrix by its role, chosen and rounded by `llama_model_quantize`. Numbers are those of llama.h and
ggml.h (https://github.com/ggml-org/llama.cpp). Rows that are no whole blocks become what llama.cpp would make of them, and are told.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeGuard, get_args

from posttrain.functional.ggml_blocks import BLOCK, GRIDS
from posttrain.functional.ggml_super_blocks import SUPER, SUPER_GRIDS
from posttrain.schema.errors import ModelError

TensorType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k", "q5_k", "q4_k"]
Blend = Literal[
    "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k", "q2_k_s",
    "iq4_nl", "iq4_xs", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s",
]  # fmt: skip
GgufType = Literal[TensorType, Blend]

BLENDS: tuple[str, ...] = get_args(Blend)
SOLVABLE = (*GRIDS, *SUPER_GRIDS)
NEED_DATA = ("q2_k_s", "iq3_xs", "iq3_xxs", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s")
"""llama.cpp does not round to these without knowing which columns matter."""

FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12,
    "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq2_xxs": 19, "iq2_xs": 20,
    "q2_k_s": 21, "iq3_xs": 22, "iq3_xxs": 23, "iq1_s": 24, "iq4_nl": 25, "iq3_s": 26, "iq3_m": 27, "iq2_s": 28,
    "iq2_m": 29, "iq4_xs": 30, "iq1_m": 31, "bf16": 32, "q4_k": 14, "q5_k": 16,
}  # fmt: skip
SMALLER: Mapping[str, TensorType] = {
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}  # llama.cpp's own, for rows of no 256
FALLBACK: TensorType = "f16"  # for rows of no 32
EMBEDDED = ("token_embd.weight", "output.weight")
EXACT = ("ffn_gate_inp.weight", "position_embd.weight")  # llama.cpp computes with these in fp32


def is_blend(kind: GgufType) -> TypeGuard[Blend]:
    """Whether llama.cpp itself writes files of this type."""
    return kind in BLENDS


def is_ours(kind: GgufType) -> TypeGuard[TensorType]:
    """Whether files of this type are written here."""
    return kind not in BLENDS


def is_solvable(kind: GgufType) -> TypeGuard[TensorType]:
    """Whether matrices of this type can be solved for."""
    return kind in SOLVABLE


def columns_in_a_block(kind: str) -> int:
    """Of a type, or of most of a blend: rows must be whole blocks."""
    if kind in SUPER_GRIDS or (kind in BLENDS and kind != "iq4_nl"):
        return SUPER
    return BLOCK if kind in GRIDS or kind in BLENDS else 1


def fitting(kind: TensorType, columns: int) -> TensorType:
    """What a matrix with rows of so many columns becomes."""
    if kind in SUPER_GRIDS and columns % SUPER:
        kind = SMALLER[kind]
    return FALLBACK if columns % columns_in_a_block(kind) else kind


def is_matrix(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of the file is a matrix of a layer, or one of each expert."""
    return len(shape) > 1 and not name.endswith(EXACT) and name not in EMBEDDED


def type_of(name: str, shape: Sequence[int], kind: TensorType, embedding: TensorType) -> TensorType:
    """The type of a tensor of the file: vectors stay exact, and rows that are no whole blocks fall back."""
    if len(shape) < 2 or name.endswith(EXACT):
        return "f32"
    return fitting(embedding if name in EMBEDDED else kind, shape[-1])


def default_embedding(kind: GgufType) -> TensorType:
    """What embeddings and head are written in: they tell tokens apart, and are worth more than four or five bits."""
    return kind if kind in ("f32", "f16", "bf16") else "q8_0"


def fell_back(
    tensors: Mapping[str, tuple[str, Sequence[int]]], kind: GgufType, embedding: TensorType
) -> dict[str, str]:
    """What became of the tensors of a file, by their types and shapes, whose rows are no whole blocks of what they should have
    been."""

    def misses(name: str, shape: Sequence[int]) -> bool:
        wanted = embedding if name in EMBEDDED else kind
        return len(shape) > 1 and not name.endswith(EXACT) and shape[-1] % columns_in_a_block(wanted) > 0

    return {name: became for name, (became, shape) in sorted(tensors.items()) if misses(name, shape)}


def refuse_by_name_alone(columns: Iterable[int], kind: GgufType) -> None:
    """Raises ModelError where no row of a model's matrices is whole super-blocks: the file would have the type by name alone."""
    found = sorted(set(columns))
    if columns_in_a_block(kind) == SUPER and all(n % SUPER for n in found):
        raise ModelError(
            f"`{kind}` wants rows of {SUPER} weights, or of twice, three times as many, and the matrices of this model have rows "
            f"of {', '.join(map(str, found))}: nothing of the file would be {kind}. Write one of {', '.join(GRIDS)}."
        )
