"""Experts that were solved one by one, as a GGUF file has them: the blocks of all experts of a layer in one tensor.

experts.0.gate_proj (F, D), experts.0.up_proj (F, D), experts.1. ...   ->   experts.gate_up_proj (E, 2F, D)
experts.0.down_proj (D, F), experts.1. ...                             ->   experts.down_proj (E, D, F)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from torch import nn

from posttrain.functional.ggml_blocks import Array

from .experts import experts_in
from .gguf_file import Blocks


def stacked(weights: nn.Module, blocks: Mapping[str, Blocks]) -> dict[str, Blocks]:
    """Blocks by the names of the tensors that transformers has, from those of matrices by their names in a model whose experts
    were taken apart. Experts of a kind that are not all there are left out."""
    found = dict(blocks)
    for name, experts in experts_in(weights).items():
        for whole, parts in experts.wholes.items():
            rows = [[found.pop(f"{name}.{n}.{part}", None) for part in parts] for n in range(len(experts))]
            if (first := rows[0][0]) and all(each for row in rows for each in row):
                arrays = zip(*(_one_on_the_other([each for each in row if each]) for row in rows), strict=True)
                stack: Any = [None if array[0] is None else np.stack(array) for array in arrays]
                found[f"{name}.{whole}"] = Blocks(first.kind, *stack)
    apart = {name for name in found if name in blocks}
    return {f"{name}.weight" if name in apart else name: each for name, each in found.items()}


def _one_on_the_other(parts: Sequence[Blocks]) -> Iterator[Array | None]:
    """The arrays of matrices that stand one on the other."""
    for each in fields(Blocks)[1:]:
        arrays = [getattr(part, each.name) for part in parts]
        yield None if arrays[0] is None else np.concatenate(arrays)
