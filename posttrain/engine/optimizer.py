"""Optimizers by name. AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101), its two moments in fp32 or in eight bits.

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   w <- w - rate (m^ / (sqrt v^ + e) + decay w)

With eight bits (Dettmers et al. 2021, arXiv 2110.02861) each block of 256 numbers is stored as bytes of a table and
one scale, and unpacked for the step: a quarter of the memory. Tensors under 4096 weights keep fp32.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch

from posttrain.models.four_bits import bitsandbytes

Kind = Literal["adamw", "adamw_8bit"]
BITS_FROM = 4096  # weights in a tensor; a smaller one has no gain from bytes


def make_optimizer(
    kind: Kind, parameters: Iterable[Any], rate: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """The optimizer of parameters or of groups of them. Raises MissingExtra without the package for eight bits."""
    if kind == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=True)
    wanted = bitsandbytes("`optimizer: adamw_8bit`", "`optimizer: adamw`")
    return wanted.optim.AdamW8bit(parameters, lr=rate, weight_decay=weight_decay, min_8bit_size=BITS_FROM)
