"""GGUF files of models: written from the tensors of transformers, and read back into them.

A file is read through the same table that it was written by: what the model of a configuration has must all be there,
and nothing else, or the file is not read at all.
"""

import errno
import importlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.data.ggml_vocab import Vocab
from posttrain.functional.ggml_blocks import GRIDS, Array, pack_blocks, round_blocks
from posttrain.functional.ggml_super_blocks import SUPER_GRIDS, pack_super_blocks
from posttrain.functional.ggml_super_grids import round_super_blocks
from posttrain.schema.errors import MissingExtra, ModelError

from .gguf_families import Laid, family_of, layout_of
from .gguf_fields import ROPE_TENSORS, model_fields, rope_tensors, vocab_fields
from .gguf_types import TensorType, default_embedding, type_of


@dataclass(frozen=True)
class Blocks:
    """A matrix (out, in) that a solver has rounded: integers q (out, in), scales d and smallest values m of each block, as
    `functional.ggml_blocks` or, of super-blocks, `functional.ggml_super_blocks` packs them. They are written as they are."""

    kind: TensorType
    q: Array
    d: Array
    m: Array | None = None


@dataclass(frozen=True)
class Plan:
    """What is written for one tensor of the file."""

    name: str
    kind: TensorType
    shape: tuple[int, ...]


def gguf_package(wanted: str) -> Any:
    """The package. Raises MissingExtra, which names what is `wanted` of it."""
    try:
        found = importlib.import_module("gguf")
    except ImportError as error:
        raise MissingExtra("gguf", "gguf", wanted) from error
    logging.getLogger("gguf").setLevel(logging.WARNING)  # it tells its plan for every file
    return found


def layouts(config: Any, names: Sequence[str]) -> dict[str, Laid]:
    """How the tensors of a model stand in its file, by transformers' names; the head is left out where it is tied.
    Raises ModelError for what llama.cpp does not know."""
    family = family_of(config)
    package = gguf_package("A GGUF file")
    arch = next(each for each, name in package.MODEL_ARCH_NAMES.items() if name == family.arch)
    known = package.get_tensor_name_map(arch, config.num_hidden_layers)
    kept = (name for name in names if not (config.tie_word_embeddings and name == "lm_head.weight"))
    return {name: layout_of(name, config, family, known) for name in kept}


def write_gguf(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Any,
    vocab: Vocab,
    kind: TensorType,
    embedding: TensorType | None = None,
    blocks: Mapping[str, Blocks] | None = None,
    matters: Mapping[str, Array] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, TensorType]:
    """Writes a file of tensors by transformers' names, one at a time, and gives the type of each by the file's names.
    `blocks` holds what a solver has rounded already, `matters` what the columns of a matrix are worth to rounding in
    super-blocks, `extra` more fields. Raises ModelError, MissingExtra, and OSError with ENOSPC on a full disk."""
    package = gguf_package("Writing a GGUF file")
    family, solved = family_of(config), blocks or {}
    laid, divisors = layouts(config, list(tensors)), rope_tensors(config, family)
    types = kind, embedding or default_embedding(kind)
    plans = {
        plan.name: plan
        for name, way in laid.items()
        for plan in _plans(tuple(tensors[name].shape), way, *types, solved.get(name))
    }
    plans |= {name: Plan(name, "f32", array.shape) for name, array in divisors.items()}
    writer = package.GGUFWriter(path, family.arch)
    named = {"general.name": vocab.name or "model"}  # programs read an architecture out of it: it says none
    for key, value in {**named, **model_fields(config, family, kind), **vocab_fields(vocab), **(extra or {})}.items():
        _add(writer, key, value)
    for plan in plans.values():
        _announce(writer, package, plan)
    worth = matters or {}
    arrays = (_arrays(name, tensors[name], way, plans, solved.get(name), worth.get(name)) for name, way in laid.items())
    with _told_of_full_disk(path), closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for array in chain(chain.from_iterable(arrays), divisors.values()):
            writer.write_tensor_data(array)
    return {plan.name: plan.kind for plan in plans.values()}


def _announce(writer: Any, package: Any, plan: Plan) -> None:
    """Tells the writer of a tensor that comes later."""
    quantised = package.GGMLQuantizationType[plan.kind.upper()]
    n_weights, n_bytes = package.GGML_QUANT_SIZES[quantised]
    size = math.prod(plan.shape) // n_weights * n_bytes
    writer.add_tensor_info(plan.name, plan.shape, np.dtype(np.float32), size, raw_dtype=quantised)


def _plans(
    shape: tuple[int, ...], way: Laid, kind: TensorType, embedding: TensorType, solved: Blocks | None
) -> Iterator[Plan]:
    """What one tensor becomes."""
    shape = way.shape(shape)
    for name in way.names:
        yield Plan(name, solved.kind if solved else type_of(name, shape, kind, embedding), shape)


def _arrays(
    name: str, tensor: Tensor, way: Laid, plans: Mapping[str, Plan], solved: Blocks | None, worth: Array | None
) -> Iterator[Array]:
    """The bytes of one tensor, for each of its places in the file."""
    if solved:
        pack = pack_super_blocks if solved.kind in SUPER_GRIDS else pack_blocks
        parts = [way.there(np.asarray(part), turn=False) for part in (solved.q, solved.d, solved.m) if part is not None]
        for each in zip(*parts, strict=True):
            yield pack(solved.kind, *each)
        return
    there = way.there(tensor.detach().float().cpu().numpy())
    for place, array in zip(way.names, there, strict=True):
        yield _encoded(name, array, plans[place].kind, worth)


def as_stored(name: str, tensor: Tensor, way: Laid, kind: TensorType) -> tuple[Tensor, int]:
    """What a tensor stands for once it is written in a type, and its bytes in the file."""
    package = gguf_package("A GGUF file")
    embedding, arrays, size = default_embedding(kind), [], 0
    for place, array in zip(way.names, way.there(tensor.detach().float().cpu().numpy()), strict=True):
        kept = type_of(place, array.shape, kind, embedding)
        data = _encoded(name, array, kept, None)
        back = package.quants.dequantize(data, package.GGMLQuantizationType[kept.upper()])
        arrays.append(np.asarray(back, dtype=np.float32).reshape(array.shape))
        size += data.nbytes
    return torch.from_numpy(np.ascontiguousarray(way.back(tuple(arrays)))), size


def _encoded(name: str, array: Array, kind: TensorType, worth: Array | None) -> Array:
    if not np.isfinite(array).all():
        raise ModelError(f"{name} holds numbers that are not finite. Train the model again, at a lower learning rate.")
    if kind in GRIDS:
        return pack_blocks(kind, *round_blocks(kind, array))
    if kind in SUPER_GRIDS:
        return pack_super_blocks(kind, *round_super_blocks(kind, array, worth))
    if kind == "f32":
        return np.ascontiguousarray(array, dtype=np.float32)
    if kind == "bf16":
        package = gguf_package("Writing a GGUF file")
        found: Array = package.quants.quantize(np.ascontiguousarray(array), package.GGMLQuantizationType.BF16)
        return found
    if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
        raise ModelError(
            f"{name} holds {np.abs(array).max():.3g}, which half precision cannot. Write `bf16`, `f32` or a type in blocks."
        )
    return np.ascontiguousarray(array, dtype=np.float16)


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


@contextmanager
def _told_of_full_disk(path: Path) -> Iterator[None]:
    """numpy says that it wrote less than it was asked to, and not why: there is one reason."""
    try:
        yield
    except OSError as error:
        if error.errno is None and "written" in str(error):
            raise OSError(errno.ENOSPC, f"no space left on device: {error}", str(path)) from error
        raise


def read_gguf(path: Path) -> dict[str, Array]:
    """Every tensor of a file by the file's names, dequantised to fp32. Raises ModelError for a file that is damaged."""
    package = gguf_package("Reading a GGUF file")
    try:
        reader = package.GGUFReader(path)
        return {each.name: _decoded(package, each) for each in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError, RuntimeError) as error:
        raise ModelError(f"{path} cannot be read as a GGUF file ({error}). Write it again.") from error


def fields_in(path: Path) -> dict[str, Any]:
    """What a file says beside its tensors, by key. Raises ModelError for a file that is damaged."""
    package = gguf_package("Reading a GGUF file")
    try:
        return {key: field.contents() for key, field in package.GGUFReader(path).fields.items()}
    except (OSError, ValueError, IndexError, KeyError, RuntimeError) as error:
        raise ModelError(f"{path} cannot be read as a GGUF file ({error}). Write it again.") from error


def tensors_in(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type and the shape of every tensor of a file."""
    reader = gguf_package("Reading a GGUF file").GGUFReader(path)
    return {
        each.name: (each.tensor_type.name.lower(), tuple(int(n) for n in reversed(each.shape)))
        for each in reader.tensors
    }


def _decoded(package: Any, tensor: Any) -> Array:
    found: Array = package.quants.dequantize(tensor.data, tensor.tensor_type)
    return np.array(found, dtype=np.float32).reshape([int(n) for n in reversed(tensor.shape)])


def file_in(folder: Path) -> Path:
    """The file of a folder that is loaded: the smallest, which has lost most. Raises ModelError where there is none."""
    found = sorted(folder.glob("*.gguf"), key=lambda path: (path.stat().st_size, path.name))
    if not found:
        raise ModelError(f"{folder} holds no GGUF file. Write one with `gguf`.")
    return found[0]


def holds_gguf(folder: Path) -> bool:
    """Whether the weights of a model's folder are in GGUF files alone."""
    return any(folder.glob("*.gguf")) and not any((*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")))


def gguf_weights(folder: Path, config: Any) -> dict[str, Tensor]:
    """The tensors of the model in a folder, fp32, by transformers' names; a tied head is left out."""
    return weights_of(file_in(folder), config)


def weights_of(path: Path, config: Any) -> dict[str, Tensor]:
    """The same of one file. Raises ModelError unless it holds exactly what a model of this configuration has."""
    shapes = _shapes(config)
    laid, arrays = layouts(config, list(shapes)), read_gguf(path)
    wanted = {name for way in laid.values() for name in way.names}
    if missing := sorted(wanted - arrays.keys()):
        raise ModelError(
            f"{path} lacks {len(missing)} tensors of its config.json, such as {missing[0]}. Write it again."
        )
    if unexpected := sorted(arrays.keys() - wanted - set(ROPE_TENSORS)):
        raise ModelError(
            f"{path} holds {len(unexpected)} tensors that its config.json does not speak of, such as {unexpected[0]}. "
            "Put the config.json of this model beside it."
        )
    found = {}
    for name, way in laid.items():
        tensor = torch.from_numpy(np.ascontiguousarray(way.back(tuple(arrays.pop(each) for each in way.names))))
        if tensor.shape != shapes[name]:
            raise ModelError(
                f"{path} holds {name} as {tuple(tensor.shape)} and config.json wants {tuple(shapes[name])}. Put the "
                "config.json of this model beside it."
            )
        found[name] = tensor
    return found


def _shapes(config: Any) -> dict[str, torch.Size]:
    """What a model of a configuration is made of; nothing is allocated."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
