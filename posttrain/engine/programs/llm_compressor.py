"""llm-compressor's side of `external`: reads a model, rounds it as told and saves it, in its own environment."""

import time
from collections.abc import Callable
from typing import Any


def rounded(told: dict[str, Any], logits: Callable[[Any, list[list[int]]], Any]) -> dict[str, Any]:
    """Does what it was told, and says which versions did it and how long that took."""
    import llmcompressor
    import numpy
    import torch
    import transformers
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(told["model"], dtype=torch.float32).eval()
    numpy.save(told["before"], logits(model, told["asked"]))
    texts = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in torch.tensor(told["texts"])]
    loader = torch.utils.data.DataLoader(texts, batch_size=1)  # type: ignore[arg-type, var-annotated]
    began = time.perf_counter()
    oneshot(model=model, dataset=loader, recipe=_recipe(told))
    seconds = time.perf_counter() - began
    _as_stored(model, getattr(torch, told["dtype"]))
    numpy.save(told["after"], logits(model, told["asked"]))
    model.to(getattr(torch, told["dtype"])).save_pretrained(told["made"], save_compressed=True)
    return {
        "program": f"llm-compressor {llmcompressor.__version__}",
        "transformers": transformers.__version__,
        "seconds": seconds,
    }


def _recipe(told: dict[str, Any]) -> list[Any]:
    """Its modifiers for a scheme and a solver."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    group, inputs = told["group"], told["activations"]
    weights = QuantizationArgs(
        num_bits=told["bits"], symmetric=True, strategy="group" if group else "channel", group_size=group
    )
    each_token = QuantizationArgs(num_bits=inputs, symmetric=True, strategy="token", dynamic=True) if inputs else None
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=each_token)
    shared = {"config_groups": {"group_0": scheme}, "ignore": ["lm_head", "re:.*mlp.gate$"]}
    if told["solver"] == "nearest":
        return [QuantizationModifier(**shared)]
    gptq = GPTQModifier(**shared, actorder="static", dampening_frac=0.01)
    return [SmoothQuantModifier(smoothing_strength=0.5), gptq] if told["solver"] == "smoothquant" else [gptq]


def _as_stored(model: Any, dtype: Any) -> None:
    """Every number becomes what it will be on the disk, so that what is computed now is what was saved."""
    for x in (*model.parameters(), *model.buffers()):
        if x.is_floating_point():
            x.data = x.data.to(dtype).to(x.dtype)
