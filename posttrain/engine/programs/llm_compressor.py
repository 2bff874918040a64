"""llm-compressor's side of `external`: reads a model, rounds it as told and saves it, in its own environment.

python llm_compressor.py TOLD SAID        both JSON; what it computes before and after goes beside, as .npy
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("told", type=Path)
    parser.add_argument("said", type=Path)
    args = parser.parse_args()
    told = json.loads(args.told.read_text(encoding="utf-8"))
    args.said.write_text(json.dumps(rounded(told)), encoding="utf-8")


def rounded(told: dict[str, Any]) -> dict[str, Any]:
    """Does what it was told, and says which versions did it and how long that took."""
    import llmcompressor
    import numpy
    import torch
    import transformers
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(told["model"], dtype=torch.float32).eval()
    numpy.save(told["before"], _logits(model, told["asked"]))
    texts = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in torch.tensor(told["texts"])]
    loader = torch.utils.data.DataLoader(texts, batch_size=1)  # type: ignore[arg-type, var-annotated]
    began = time.perf_counter()
    oneshot(model=model, dataset=loader, recipe=_recipe(told))
    seconds = time.perf_counter() - began
    _as_stored(model, getattr(torch, told["dtype"]))
    numpy.save(told["after"], _logits(model, told["asked"]))
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


def _logits(model: Any, asked: list[list[int]]) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(asked), use_cache=False).logits.float().numpy()


if __name__ == "__main__":
    main()
