"""Models whose matrices are integers as NVIDIA's Model Optimizer exports them, for TensorRT-LLM.

    NAME.weight           (R, C) int8, or in four bits (R / 2, C) uint8: rows 2n and 2n + 1 in one byte, the low bits first
    NAME.weight_scale     (R,), or (R, C / group)        w = scale q
    NAME.input_scale      ()                             x^ = scale round(x / scale), in 8 bits, the same for all tokens
    NAME.pre_quant_scale  (C,)                           what inputs are multiplied by first

    y = W^ x^(pre_quant_scale * x)

`quantization_config` in config.json, or hf_quant_config.json beside it, says `quant_algo`. transformers 5.23 knows nothing of it: it
takes the integers of 8 bits for the weights themselves, with a warning.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.functional.rounding import Rounded
from posttrain.schema.errors import ModelError

METHOD = "modelopt"
FILE = "hf_quant_config.json"  # where TensorRT-LLM looks
EIGHT, FOUR = "W8A8_SQ_PER_CHANNEL", "W4A16_AWQ"
WEIGHT, SCALE, INPUT, BEFORE = ".weight", ".weight_scale", ".input_scale", ".pre_quant_scale"
KINDS = {torch.int8: EIGHT, torch.uint8: FOUR}


def check(folder: Path, said: Mapping[str, Any]) -> None:
    """Raises ModelError for a model that is stored in another of its formats."""
    if said.get("quant_algo") not in KINDS.values():
        raise ModelError(
            f"{folder} holds {said.get('quant_algo')} of Model Optimizer, of whose formats {EIGHT} and {FOUR} are read here. Load the "
            "model that it was made from."
        )


def dense(name: str, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> Tensor:
    """(R, C): the numbers that the integers of a matrix stand for, which reads inputs as `models/rounded_inputs.py` makes them.
    Raises KeyError for a tensor that is missing, ValueError and RuntimeError for kinds and shapes that do not fit."""
    ints, scale = tensors[name + WEIGHT], tensors[name + SCALE].float()
    algorithm = said["quant_algo"]
    if KINDS[ints.dtype] != algorithm:
        raise ValueError(f"it is of {ints.dtype} in a model of {algorithm}")
    if algorithm == EIGHT and name + INPUT not in tensors:
        raise KeyError(name + INPUT)
    ints = ints if algorithm == EIGHT else unpacked(ints)
    scale = scale.reshape(len(ints), -1)
    return Rounded(ints, scale, torch.zeros_like(scale)).dense()


def unpacked(packed: Tensor) -> Tensor:
    """(R / 2, C) uint8 -> (R, C) int8 of -8 ... 7."""
    rows = torch.stack((packed & 15, packed >> 4), dim=1).flatten(0, 1).to(torch.int8)
    return torch.where(rows > 7, rows - 16, rows)
