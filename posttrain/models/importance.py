"""How large the inputs of each matrix are: what llama.cpp calls an importance matrix.

    mean over the tokens that reached it of  x_c^2        for each column c of a matrix; for each expert by itself

Products are watched where they are computed, so that the experts of a mixture, which stand in one block of numbers, are known apart.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from posttrain.functional.ggml_blocks import Array


class Products(TorchFunctionMode):
    """Within: what is multiplied with a module's matrices is squared and summed up, column by column."""

    def __init__(self, module: nn.Module, name: str):
        super().__init__()
        self.sums: dict[str, Tensor] = {}
        self.tokens: dict[str, Tensor] = {}
        self._where: dict[int, tuple[str, int]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for part, weight in module.named_parameters(prefix=name):
            if weight.dim() > 1:
                self._shapes[part] = tuple(weight.shape)
                each = weight if weight.dim() > 2 else weight[None]
                self._where |= {matrix.data_ptr(): (part, n) for n, matrix in enumerate(each)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            self._hear(args[0], args[1], columns=-1)
        elif func is torch.addmm:  # GPT-2 keeps its matrices turned
            self._hear(args[1], args[2], columns=0)
        return func(*args, **(kwargs or {}))

    def _hear(self, x: Tensor, weight: Tensor, columns: int) -> None:
        name, expert = self._where.get(weight.data_ptr(), ("", 0))
        if not name or weight.shape != self._shapes[name][-2:]:
            return
        if name not in self.sums:
            experts = self._shapes[name][0] if len(self._shapes[name]) > 2 else 1
            self.sums[name] = torch.zeros(experts, weight.shape[columns], dtype=torch.float64)
            self.tokens[name] = torch.zeros(experts, 1, dtype=torch.float64)
        rows = x.detach().reshape(-1, x.shape[-1])
        self.sums[name][expert] += rows.double().square().sum(0).cpu()
        self.tokens[name][expert] += len(rows)


def mean_squares(heard: Mapping[str, Tensor], tokens: Mapping[str, Tensor]) -> tuple[dict[str, Array], list[str]]:
    """(C,) of each matrix or (E, C) of several in one, by name; all columns matter alike where nothing was heard. And the names
    of matrices for which that is so."""
    found, silent = {}, []
    for name, sums in heard.items():
        reached = (tokens[name] > 0) & (sums.sum(-1, keepdim=True) > 0)
        means = torch.where(reached, sums / tokens[name].clamp(min=1), 1.0)
        silent += [f"{name}[{n}]" if len(sums) > 1 else name for n in (~reached[:, 0]).nonzero()[:, 0].tolist()]
        found[name] = (means if len(sums) > 1 else means[0]).numpy().astype(np.float32)
    return found, silent
