"""The formats that a mixture can be stored in: what a matrix may become there, how many bytes that takes, and what all else of the
model becomes that is not solved.

    compressed-tensors   integers of some bits, scales and all else in `dtype`
    gguf                 blocks of 32 weights, embeddings and head in q8_0, vectors in fp32
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from posttrain.functional.budget import Kind
from posttrain.functional.ggml_blocks import BLOCK, GRIDS
from posttrain.functional.ggml_grids import BlockGrid
from posttrain.functional.rounding import Grid, Integers
from posttrain.models.gguf_file import as_stored, layouts
from posttrain.models.gguf_types import TensorType

PROBE = 4  # bits
REST: TensorType = "q8_0"
"""The type of what is neither rounded nor a vector: embeddings and head, experts in one block."""


class Storing(Protocol):
    """A format. `grids` are what a matrix may become, by what each is called, from the largest on."""

    @property
    def form(self) -> str:
        """Of the models that are stored so."""

    @property
    def grids(self) -> Mapping[Kind, Grid]: ...
    @property
    def probe(self) -> Grid:
        """Four bits, to find out what rounding a matrix loses."""

    def takes(self, weight: Tensor) -> bool:
        """Whether a matrix can be rounded at all."""

    def bytes(self, weight: Tensor, kind: Kind) -> float:
        """Of a matrix that is rounded."""

    def rest(self, weights: Any, rounded: Collection[str]) -> float:
        """Gives all tensors but the matrices that are rounded what they stand for once they are stored; their bytes."""


@dataclass(frozen=True)
class InIntegers:
    """compressed-tensors: integers of some bits, from the most on."""

    grids: Mapping[Kind, Integers]
    dtype: torch.dtype
    form: str = "compressed-tensors"

    @property
    def probe(self) -> Integers:
        return replace(next(iter(self.grids.values())), bits=PROBE)

    def takes(self, weight: Tensor) -> bool:
        return True

    def bytes(self, weight: Tensor, kind: Kind) -> float:
        """With its scales, and its zeros where there are any."""
        rows, columns = weight.shape
        grid = self.grids[kind]
        groups = columns // (grid.group or columns)
        zeros = 0 if grid.symmetric else grid.bits / 8
        return rows * (columns * grid.bits / 8 + groups * (grid.dtype.itemsize + zeros))

    @torch.no_grad()
    def rest(self, weights: Any, rounded: Collection[str]) -> float:
        total = 0
        for name, x in weights.named_parameters():
            if name.removesuffix(".weight") not in rounded:
                x.copy_(x.to(self.dtype))
                total += x.numel() * self.dtype.itemsize
        return total


@dataclass(frozen=True)
class InBlocks:
    """GGUF: blocks of some types, from the largest on."""

    grids: Mapping[Kind, BlockGrid]
    form: str = "gguf"

    @property
    def probe(self) -> BlockGrid:
        return BlockGrid("q4_0")

    def takes(self, weight: Tensor) -> bool:
        return weight.shape[1] % BLOCK == 0

    def bytes(self, weight: Tensor, kind: Kind) -> float:
        return weight.numel() / BLOCK * GRIDS[str(kind)].bytes

    @torch.no_grad()
    def rest(self, weights: Any, rounded: Collection[str]) -> float:
        total, tensors = 0, weights.state_dict()
        others = [name for name in tensors if name.removesuffix(".weight") not in rounded]
        for name, way in layouts(weights.config, others).items():
            stored, size = as_stored(name, tensors[name], way, REST)
            tensors[name].copy_(stored)
            total += size
        return total
