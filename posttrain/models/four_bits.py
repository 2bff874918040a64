"""A frozen base in four bits (Dettmers et al. 2023, arXiv 2305.14314), through bitsandbytes, on CPU and CUDA.

NF4: blocks of 64 weights are divided by their largest and rounded to 16 quantiles of a normal distribution; the blocks'
scales are themselves rounded to eight bits in blocks of 256. The head, embeddings and norms stay as they are.

An adapter that was trained on such a base is one of it alone. PEFT's own files do not say so; the configuration of the
base stands beside them, as transformers writes it, and is read back with them.
"""

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from posttrain.schema.errors import MachineError, MissingExtra, ModelError

FILE = "base_quantization.json"
BLOCK = 64  # weights that share a scale
WANTED = "`adapter: qlora`", "`adapter: lora`"


def configuration(build: Callable[[], nn.Module]) -> Any:
    """How the model that `build` makes is quantised, as transformers' BitsAndBytesConfig. Raises MissingExtra without
    bitsandbytes."""
    bitsandbytes(*WANTED)
    from transformers import BitsAndBytesConfig

    with torch.device("meta"):
        model = build()
    left_out = _left_out(model)
    if {name for name, _ in _linear(model)} <= set(left_out):
        raise ModelError(
            f"No layer of this model has rows of whole blocks of {BLOCK} weights, so none can be held in four bits. "
            "Use `adapter: lora`."
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,  # of the inputs; bfloat16 comes by autocast, as everywhere
        llm_int8_skip_modules=left_out,
    )


def _left_out(model: nn.Module) -> list[str]:
    """The layers that stay as they are: what transformers leaves out, such as the head, and those whose rows are no
    whole blocks, which bitsandbytes reads back wrongly on a CPU (0.50.2: an error of a quarter rather than a tenth)."""
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert

    widths = {name: m.weight.shape[0 if isinstance(m, Conv1D) else 1] for name, m in _linear(model)}
    return sorted({*get_keys_to_not_convert(model), *(name for name, width in widths.items() if width % BLOCK)})


def _linear(model: nn.Module) -> Iterator[tuple[str, Any]]:
    from transformers.pytorch_utils import Conv1D

    return ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D))


def noted(folder: Path) -> Any:
    """How the base of an adapter is quantised, by the file beside it; None if there is none. Raises MissingExtra
    without bitsandbytes."""
    if not (folder / FILE).is_file():
        return None
    bitsandbytes(*WANTED)
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig.from_dict(json.loads((folder / FILE).read_text(encoding="utf-8")))


def bitsandbytes(wanted: str, instead: str) -> Any:
    """The package. Raises MissingExtra or MachineError, which name what is `wanted` of it and what to write `instead`."""
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise MissingExtra("bitsandbytes", "bits", wanted) from error
    except Exception as error:  # a library that does not load on this machine: OSError, RuntimeError
        raise MachineError(
            f"bitsandbytes does not load here ({type(error).__name__}: {error}). Write {instead}."
        ) from error


def note_base(model: Any, folder: Path) -> None:
    """Writes beside an adapter how its base is quantised, if it is."""
    if is_in_four_bits(model):
        text = json.dumps(model.config.quantization_config.to_dict(), indent=1, sort_keys=True)
        (folder / FILE).write_text(text, encoding="utf-8")


def is_in_four_bits(model: nn.Module) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False))


def keep_gradients(model: nn.Module) -> None:
    """Makes layers in four bits differentiable in evaluation mode too. On processors with bfloat16 instructions
    bitsandbytes repacks them there for a product that has no gradient, without a word; training goes on and learns
    little. It also rounds the scales to bfloat16."""
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


@torch.no_grad()
def take_rounded(dense: nn.Module, quantised: nn.Module) -> None:
    """Gives the layers of a dense model the weights that a quantised copy of it computes with."""
    from bitsandbytes.functional import dequantize_4bit
    from transformers.pytorch_utils import Conv1D

    for name, layer in quantised.named_modules():
        if type(layer).__name__ == "Linear4bit":
            own: Any = dense.get_submodule(name.removesuffix(".base_layer"))
            packed: Any = layer.weight
            rounded = dequantize_4bit(packed.data, packed.quant_state)
            own.weight.copy_(rounded.T if isinstance(own, Conv1D) else rounded)
