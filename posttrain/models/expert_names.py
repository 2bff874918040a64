"""How the matrices of experts are called in files: each by itself, as most checkpoints on the hub have them, and vLLM reads them.

    model.layers.0.mlp.experts.3.gate_proj                Qwen, DeepSeek, OLMoE, ... and where transformers knows of no other
    model.layers.0.block_sparse_moe.experts.3.w1          Mixtral and its like

transformers is asked what it would call them: it is given small tensors in place of a model's, and writes each into them.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .experts import PARTS, experts_in, fused_in, kind_of, linears_in, wholes_of


def stored_names(weights: Any, names: Sequence[str]) -> dict[str, str]:
    """The names in files of matrices of a model whose experts were taken apart."""
    parts = _parts(weights)
    marked = {f"{_called(name, parts)}.weight": torch.tensor(n) for n, name in enumerate(names)}
    found = {int(mark): stored.removesuffix(".weight") for stored, mark in _written(weights, marked).items()}
    return {name: found[n] for n, name in enumerate(names)}


def with_parts_called(weights: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model whose experts were taken apart, the matrices of each called as in files; transformers does the rest
    as it saves them."""
    parts = _parts(weights)
    return {_called(name, parts): x for name, x in state.items()}


def patterns_of(weights: Any, names: Sequence[str]) -> list[str]:
    """What a configuration says in place of names, those in files and those of transformers: one pattern for all experts of a
    layer where all are among them."""
    stored, kinds = stored_names(weights, names), Counter(map(kind_of, names))
    whole = {f"{name}.*.{part}": len(each) for name, each in experts_in(weights).items() for part in PARTS}
    found: dict[str, None] = {}
    for name in names:
        together = kinds[kind_of(name)] == whole.get(kind_of(name))
        found |= dict.fromkeys(_pattern(kind_of(each)) if together else each for each in (name, stored[name]))
    return list(found)


def not_read_by_transformers(weights: Any, packed: Mapping[str, Any]) -> str:
    """Why transformers 5.23 does not read the experts of a model as they are, some matrices of which are `packed` in one way or
    another; empty where it does, and where there are none."""
    names = [f"{name}.{each}" for name, experts in experts_in(weights).items() for each in linears_in(experts)]
    ways = {packed.get(name) for name in names}
    if not names:
        return ""
    if not _parts(weights):
        return "it looks for one tensor of all experts, and without a word takes random numbers for it"
    if len(ways) > 1:
        return "it reads all experts as if they had the bits of one of them, often without a word"
    (way,) = ways
    if way is None:
        return "it looks for integers in all experts, and stops"
    return "" if way.symmetric else "it stops at experts whose integers are not around zero"


def stacked(skeleton: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of files with the experts of each layer in one, as a model has them of which the `skeleton` is given."""
    found = dict(state)
    for name, fused in fused_in(skeleton).items():
        experts = range(len(fused.down_proj))
        for whole, parts in wholes_of(fused).items():
            stored = stored_names(skeleton, [f"{name}.{n}.{part}" for n in experts for part in parts])
            if all(f"{each}.weight" in found for each in stored.values()):
                each = [found.pop(f"{theirs}.weight") for theirs in stored.values()]
                found[f"{name}.{whole}"] = torch.cat(each).view(len(experts), -1, each[0].shape[1])
    return found


def _pattern(name: str) -> str:
    """A name with a star as a regular expression, in the way of configurations, in which it stands for a number."""
    return "re:" + r"\d+".join(re.escape(part) for part in name.split("*")) + "$"


def _called(name: str, parts: Mapping[str, str]) -> str:
    """A name with the part of an expert as it is called in files."""
    found = re.fullmatch(r"(.*\.experts\.\d+)\.(\w+)(.*)", name)
    return f"{found[1]}.{parts.get(found[2], found[2])}{found[3]}" if found else name


def _parts(weights: Any) -> dict[str, str]:
    """What the matrices of an expert are called in files; nothing where transformers keeps them in one tensor there, too."""
    layers = {name: each.wholes for name, each in experts_in(weights).items()}
    layers |= {name: wholes_of(each) for name, each in fused_in(weights).items()}
    name, wholes = next(iter(layers.items()), ("", {}))
    parts = [part for of in wholes.values() for part in of]
    marks = {whole: [[float(parts.index(part))] for part in of] for whole, of in wholes.items()}
    written = _written(weights, {f"{name}.{whole}": torch.tensor([each] * 2) for whole, each in marks.items()})
    first = re.compile(r".*\.experts\.0\.(\w+)\.weight")
    return {parts[int(x.flatten()[0])]: found[1] for stored, x in written.items() if (found := first.fullmatch(stored))}


def _written(weights: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names that transformers gives them in files."""
    from transformers.core_model_loading import revert_weight_conversion

    written: dict[str, Tensor] = revert_weight_conversion(weights, dict(state))
    return written
