"""Integers of few bits as one stream of bits, low bits first, in words of 32: compressed-tensors' pack-quantized layout.

    stream = bits of (q_0 + 2^(b-1)), then of (q_1 + 2^(b-1)), ...        row by row, each filled up to whole words

An integer may lie across two words, as those of three bits do.
"""

import numpy as np
import torch
from torch import Tensor

WORD = 32


def pack(ints: Tensor, bits: int) -> Tensor:
    """(R, C) int8 of -2^(bits-1) ... 2^(bits-1) - 1 -> (R, ceil(C bits / 32)) int32."""
    rows, columns = ints.shape
    shifted = (ints.to(torch.int16) + (1 << bits - 1)).to(torch.uint8).numpy()
    stream = np.unpackbits(shifted[..., None], axis=-1, count=bits, bitorder="little").reshape(rows, columns * bits)
    stream = np.pad(stream, ((0, 0), (0, -columns * bits % WORD)))
    return torch.from_numpy(np.packbits(stream, axis=-1, bitorder="little").view("<i4"))


def unpack(words: Tensor, bits: int, columns: int) -> Tensor:
    """(R, W) int32 -> (R, columns) int8: the opposite of `pack`."""
    rows = len(words)
    stream = np.unpackbits(words.contiguous().numpy().view(np.uint8), axis=-1, count=columns * bits, bitorder="little")
    shifted = np.packbits(stream.reshape(rows, columns, bits), axis=-1, bitorder="little")[..., 0]
    return (torch.from_numpy(shifted).to(torch.int16) - (1 << bits - 1)).to(torch.int8)
