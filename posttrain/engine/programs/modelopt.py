"""NVIDIA Model Optimizer's side of `external`: reads a model, rounds it as told and exports it, in its own environment.

Its export first gives matrices that read the same inputs one scale, and puts AWQ's scales into norms. That is done here before the
model is asked, so that what is compared is what it has in its memory and not what it had.
"""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rounded(told: dict[str, Any], logits: Callable[[Any, list[list[int]]], Any]) -> dict[str, Any]:
    """Does what it was told, and says which versions did it and how long that took."""
    import modelopt
    import modelopt.torch.quantization as mtq
    import numpy
    import torch
    import transformers
    from modelopt.torch.export import export_hf_checkpoint
    from modelopt.torch.export.unified_export_hf import requantize_resmooth_fused_llm_layers
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(told["model"], dtype=torch.float32).eval()
    numpy.save(told["before"], logits(model, told["asked"]))
    began = time.perf_counter()
    model = mtq.quantize(model, _config(told, mtq), lambda model: [logits(model, [row]) for row in told["texts"]])
    requantize_resmooth_fused_llm_layers(model)
    seconds = time.perf_counter() - began
    dtype = getattr(torch, told["dtype"])
    kept = _not_rounded(model)
    for x in kept.values():
        x.data = x.data.to(dtype).to(x.dtype)  # as it will be on the disk; what is rounded is rounded from what it is
    numpy.save(told["after"], logits(model, told["asked"]))
    stored = {name: x.detach().to(dtype) for name, x in kept.items()}  # which its export leaves as computed with
    export_hf_checkpoint(model, torch.float32, told["made"], extra_state_dict=stored)
    _note_dtype(Path(told["made"]) / "config.json", told["dtype"])
    return {
        "program": f"Model Optimizer {modelopt.__version__}",
        "transformers": transformers.__version__,
        "seconds": seconds,
    }


def _config(told: dict[str, Any], mtq: Any) -> dict[str, Any]:
    """Its settings for a number of bits and a solver. SmoothQuant's own alpha of 1 would leave all that is hard to the weights."""
    config = copy.deepcopy(mtq.INT8_SMOOTHQUANT_CFG if told["activations"] else mtq.INT4_AWQ_CFG)
    if told["solver"] == "nearest":
        config["algorithm"] = "max"
    elif told["solver"] == "smoothquant":
        config["algorithm"] = {"method": "smoothquant", "alpha": 0.5}
    for each in config["quant_cfg"]:
        if blocks := each.get("cfg", {}).get("block_sizes"):
            blocks[-1] = told["group"]
    found: dict[str, Any] = config
    return found


def _not_rounded(model: Any) -> dict[str, Any]:
    """All parameters that stay numbers, by name."""
    modules = dict(model.named_modules())
    found = {}
    for name, x in model.named_parameters():
        of, _, key = name.rpartition(".")
        quantizer = getattr(modules[of], "weight_quantizer", None)
        if key != "weight" or quantizer is None or not quantizer.is_enabled:
            found[name] = x
    return found


def _note_dtype(path: Path, dtype: str) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
