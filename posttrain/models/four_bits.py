"""A frozen base in four bits (Dettmers et al. 2023, arXiv 2305.14314), through bitsandbytes, on CPU and CUDA.

NF4: blocks of 64 weights are divided by their largest and rounded to 16 quantiles of a normal distribution; the blocks'
scales are themselves rounded to eight bits in blocks of 256. The head, embeddings and norms stay as they are.

An adapter that was trained on such a base is one of it alone. PEFT's own files do not say so; the configuration of the
base stands beside them, as transformers writes it, and is read back with them.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from posttrain.schema.errors import MachineError, MissingExtra

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "base_quantization.json"


def configuration() -> Any:
    """How the base is quantised, as transformers' BitsAndBytesConfig. Raises MissingExtra without bitsandbytes."""
    _require()
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,  # of the inputs; bfloat16 comes by autocast, as everywhere
    )


def _require() -> None:
    try:
        import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise MissingExtra("bitsandbytes", "bits", "`adapter: qlora`") from error
    except Exception as error:  # a library that does not load on this machine: OSError, RuntimeError
        raise MachineError(
            f"bitsandbytes does not load here ({type(error).__name__}: {error}). Use `adapter: lora`."
        ) from error


def wants_four_bits(folder: Path) -> bool:
    """Whether an adapter's folder says that its base is held in four bits."""
    return (folder / FILE).is_file()


def note_base(model: "PreTrainedModel", folder: Path) -> None:
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
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


@torch.no_grad()
def take_rounded(dense: nn.Module, quantised: nn.Module) -> None:
    """Gives the layers of a dense model the weights that a quantised copy of it computes with."""
    from bitsandbytes.functional import dequantize_4bit

    for name, layer in quantised.named_modules():
        if (state := getattr(getattr(layer, "weight", None), "quant_state", None)) is not None:
            weight: Any = dense.get_submodule(name).weight
            weight.copy_(dequantize_4bit(layer.weight.data, state))
