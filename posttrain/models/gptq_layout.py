"""Models whose matrices are integers in the layout of GPTQ's own tools, which GPTQModel, vLLM and transformers read.

    NAME.qweight    (C bits / 32, R) int32      the integers from 0 on, a stream of bits down each column
    NAME.qzeros     (K, R bits / 32) int32      the zeros from 0 on, less one, a stream along each row
    NAME.scales     (K, R) fp16                 w = scale (q - zero)
    NAME.g_idx      (C,) int32                  the group of each input

Streams begin with the low bits; an integer of three bits may lie across two words. Checkpoints of version 2 keep the zeros as they
are. One `quantization_config` holds for all matrices of the layers; here the bits are told by the shapes, so that those which others
say in `dynamic` are read too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.functional.packing import WORD, pack, unpack
from posttrain.functional.rounding import Integers, Rounded

METHOD = "gptq"
FILE = "quantize_config.json"  # where programs look that do not read config.json
INTS, ZEROS, SCALES, GROUPS = ".qweight", ".qzeros", ".scales", ".g_idx"
LESS_ONE = {"gptq": True, "gptq_v2": False}  # of the zeros, by `checkpoint_format`


def configuration(grid: Integers) -> dict[str, Any]:
    """`quantization_config` of a model all of whose matrices are on one grid."""
    return {
        "quant_method": METHOD,
        "bits": grid.bits,
        "group_size": grid.group or -1,
        "desc_act": False,
        "sym": grid.symmetric,
        "lm_head": False,
        "checkpoint_format": "gptq",
    }


def note(folder: Path, configuration: Mapping[str, Any]) -> None:
    """Writes the configuration once more, where older programs look for it."""
    (folder / FILE).write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def stored(name: str, rounded: Rounded, grid: Integers) -> dict[str, Tensor]:
    """The tensors of a matrix, whose rows and columns must fill whole words."""
    columns = rounded.ints.shape[1]
    zeros = (-rounded.offset / rounded.scale).round().to(torch.int8)
    return {
        name + INTS: pack(rounded.ints, grid.bits).t().contiguous(),
        name + ZEROS: pack(zeros.t() - 1, grid.bits),
        name + SCALES: rounded.scale.t().to(torch.float16).contiguous(),
        name + GROUPS: (torch.arange(columns) // (grid.group or columns)).to(torch.int32),
    }


def fills_words(rows: int, columns: int, bits: int) -> bool:
    """Whether a matrix can be stored so."""
    return rows * bits % WORD == 0 and columns * bits % WORD == 0


def dense(name: str, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> Tensor:
    """(R, C): the numbers that the integers of a matrix stand for. Raises KeyError for a tensor or a kind of checkpoint that is
    not known, ValueError and RuntimeError for shapes that do not fit."""
    less_one = LESS_ONE[said.get("checkpoint_format", "gptq")]
    ints, scales = tensors[name + INTS], tensors[name + SCALES].float()
    n_groups, rows = scales.shape
    of = tensors.get(name + GROUPS)
    columns = len(ints) * WORD // int(said["bits"]) if of is None else len(of)
    if of is None:
        of = torch.arange(columns) * n_groups // columns
    bits = len(ints) * WORD // columns
    zeros = _zeros(tensors[name + ZEROS], bits, rows, less_one)
    scale = scales[of.long()].t()
    return Rounded(unpack(ints.t(), bits, columns), scale, -scale * zeros[of.long()].t()).dense()


def _zeros(words: Tensor, bits: int, rows: int, less_one: bool) -> Tensor:
    """(K, R) int8: zeros as `unpack` counts them. Where one was taken from a zero that was 0, it came from the one beside it in
    its word: words are added as the whole that they are."""
    if not less_one:
        return unpack(words, bits, rows)
    if WORD % bits:
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
        zeros = unpack(words, bits, rows)
        return torch.where(zeros == high, low, zeros + 1).to(torch.int8)
    ones = sum(1 << shift for shift in range(0, WORD, bits))
    return unpack(((words.long() + ones) & 0xFFFFFFFF).to(torch.int32), bits, rows)
