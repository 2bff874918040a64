"""Models whose matrices are integers of few bits, in the format of compressed-tensors that vLLM, SGLang and transformers read.

    NAME.weight_packed      (R, ceil(C bits / 32)) int32     the integers as a stream of bits
    NAME.weight_scale       (R, K)                           w = scale (q - zero)
    NAME.weight_zero_point  (ceil(R bits / 32), K) int32     the zeros as a stream, where they are not 0
    NAME.weight_shape       (2,)                             R and C

or, where matrices read rounded inputs too (`rounded_inputs.py`), in its format for these:

    NAME.weight             (R, C) int8
    NAME.weight_scale       (R, 1)

`quantization_config` in config.json says which matrices are so and in how many bits. They are read back here without the
package of that name: the integers become floating-point numbers again, which are what every program computes with. So are those
of GPTQ's own layout (`gptq_layout.py`) and of Model Optimizer's (`modelopt_layout.py`).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from posttrain.functional.packing import pack, unpack
from posttrain.functional.rounding import Integers, Rounded
from posttrain.schema.errors import ModelError

from . import gptq_layout, modelopt_layout
from .rounded_inputs import INPUTS, fits

METHOD, FORMAT, WITH_INPUTS = "compressed-tensors", "pack-quantized", "int-quantized"
WHOLE, PACKED, SCALE, ZERO, SHAPE = ".weight", ".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_shape"

Packed = Mapping[str, tuple[Rounded, Integers]]
"""Matrices by their names in the model, and what their integers are."""


def packed_state(state: Mapping[str, Tensor], packed: Packed, form: str = FORMAT) -> dict[str, Tensor]:
    """The tensors of a model as they are stored, `packed` ones as integers: in a format, or in GPTQ's layout."""
    stored = {name: x for name, x in state.items() if name.removesuffix(WHOLE) not in packed}
    for name, (rounded, grid) in packed.items():
        if form == gptq_layout.METHOD:
            stored |= gptq_layout.stored(name, rounded, grid)
        elif form == WITH_INPUTS:
            stored |= {name + WHOLE: rounded.ints, name + SCALE: rounded.scale.to(grid.dtype)}
        else:
            stored |= {name + key: x.contiguous() for key, x in _packed(rounded, grid)}
    return stored


def _packed(rounded: Rounded, grid: Integers) -> Iterator[tuple[str, Tensor]]:
    yield PACKED, pack(rounded.ints, grid.bits)
    yield SCALE, rounded.scale.to(grid.dtype)
    yield SHAPE, torch.tensor(rounded.ints.shape)
    if not grid.symmetric:
        zero = (-rounded.offset / rounded.scale).round().to(torch.int8)
        yield ZERO, pack(zero.t().contiguous(), grid.bits).t()


def configuration(
    packed: Packed, left: list[str], form: str = FORMAT, named: Callable[[list[str]], list[str]] = list
) -> dict[str, Any]:
    """`quantization_config` of a model in which `packed` matrices are integers and those of the names `left` are not. `named` says
    how some are spoken of together, as those of experts."""
    if form == gptq_layout.METHOD:
        return gptq_layout.configuration(next(grid for _, grid in packed.values()))
    kinds: dict[Integers, list[str]] = {}
    for name, (_, grid) in packed.items():
        kinds.setdefault(grid, []).append(name)
    most = max(kinds, key=lambda grid: len(kinds[grid]))
    groups = {
        f"group_{n}": {
            "targets": _targets(named(names), grid == most, len(kinds)),
            "weights": _scheme(grid),
            "input_activations": INPUTS if form == WITH_INPUTS else None,
            "output_activations": None,
            "format": form,
        }
        for n, (grid, names) in enumerate(kinds.items())
    }
    return {
        "quant_method": METHOD,
        "format": form,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": named(left),
        "kv_cache_scheme": None,
    }


def _targets(names: list[str], most: bool, n_kinds: int) -> list[str]:
    """What is meant by names of a kind: all that is not named otherwise for the kind of `most`. Experts are named anyway where
    there are several kinds: transformers looks for them."""
    if not most:
        return names
    return ["Linear", *(name for name in names if name.startswith("re:") and n_kinds > 1)]


def _scheme(grid: Integers) -> dict[str, Any]:
    return {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.symmetric,
        "strategy": "group" if grid.group else "channel",
        "group_size": grid.group,
        "dynamic": False,
        "observer": "minmax",
    }


def is_packed(config: Any) -> bool:
    """Whether a model's configuration says that its matrices are integers in a format that is read here."""
    said = getattr(config, "quantization_config", None) or {}
    return said.get("quant_method") in (gptq_layout.METHOD, modelopt_layout.METHOD) or (
        said.get("quant_method") == METHOD and said.get("format") in (FORMAT, WITH_INPUTS)
    )


def packed_weights(folder: Path, config: Any) -> dict[str, Tensor]:
    """All tensors of a folder by name, fp32, integers as the numbers that they stand for. Raises ModelError where some are
    missing or do not fit together."""
    if config.quantization_config["quant_method"] == modelopt_layout.METHOD:
        modelopt_layout.check(folder, config.quantization_config)
    stored = dict(_tensors(folder))
    names = {name.rpartition(".")[0] for name, x in stored.items() if _is_integers(name, x)}
    if not names:
        raise ModelError(f"{folder} says that it holds packed integers, and holds none. Copy the model again.")
    found = {name: x.float() for name, x in stored.items() if not belongs(name, names)}
    for name in sorted(names):
        try:
            found[name + WHOLE] = _dense(name, stored, config.quantization_config)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{folder}: the integers of {name} cannot be read ({error}). Copy the model again."
            ) from error
    return found


def _is_integers(name: str, x: Tensor) -> bool:
    return name.endswith((PACKED, gptq_layout.INTS)) or (name.endswith(WHOLE) and x.dtype in modelopt_layout.KINDS)


def belongs(name: str, names: Collection[str]) -> bool:
    """Whether a tensor says something of one of the matrices of some names."""
    of, _, key = name.rpartition(".")
    return of in names and key != "bias"


def _dense(name: str, stored: Mapping[str, Tensor], said: Mapping[str, Any]) -> Tensor:
    """(R, C): the numbers that the integers of a matrix stand for. Raises KeyError, ValueError and RuntimeError."""
    if said["quant_method"] == gptq_layout.METHOD:
        return gptq_layout.dense(name, stored, said)
    if said["quant_method"] == modelopt_layout.METHOD:
        return modelopt_layout.dense(name, stored, said)
    if name + WHOLE not in stored:
        return _unpacked(name, stored, _bits_of(name, _bits_by_target(said)))
    ints, scale = stored[name + WHOLE], stored[name + SCALE].float()
    zero = stored[name + ZERO].float() if name + ZERO in stored else torch.zeros_like(scale)
    scale, zero = (x.reshape(-1, x.shape[-1] if x.dim() == 2 else 1).expand(len(ints), -1) for x in (scale, zero))
    return Rounded(ints, scale, -scale * zero).dense()


def _bits_by_target(said: Mapping[str, Any]) -> dict[str, int]:
    groups = said["config_groups"].values()
    return {target: int(group["weights"]["num_bits"]) for group in groups for target in group["targets"]}


def _bits_of(name: str, by_target: Mapping[str, int]) -> int:
    """The bits of a matrix, by its own name, a pattern of names that begins with `re:`, or its kind. Raises KeyError."""
    patterns = (target for target in by_target if target.startswith("re:") and fits(name, [target]))
    return by_target[name if name in by_target else next(patterns, "Linear")]


def _unpacked(name: str, stored: Mapping[str, Tensor], bits: int) -> Tensor:
    rows, columns = stored[name + SHAPE].tolist()
    scale = stored[name + SCALE].float()
    ints = unpack(stored[name + PACKED], bits, columns)
    offset = torch.zeros_like(scale)
    if name + ZERO in stored:
        offset = -scale * unpack(stored[name + ZERO].t(), bits, rows).t()
    return Rounded(ints, scale, offset).dense()


def stored_inputs(folder: Path) -> dict[str, Tensor]:
    """What a folder stores of how matrices read their inputs, as Model Optimizer does, by name."""
    return dict(_tensors(folder, (modelopt_layout.INPUT, modelopt_layout.BEFORE)))


def _tensors(folder: Path, endings: tuple[str, ...] = ("",)) -> Iterator[tuple[str, Tensor]]:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ModelError(f"{folder} has no safetensors files. Copy the model again.")
    for path in paths:
        with safe_open(path, "pt") as file:
            yield from ((name, file.get_tensor(name)) for name in file.keys() if name.endswith(endings))  # noqa: SIM118, no dictionary
