"""What GPTQModel makes and reads, said by a Python of its own, which has it and transformers.

make MODEL FOLDER       quantises a model in every way that its files differ, into folders of FOLDER
read IDS FOLDER ...     loads folders with transformers and leaves what they compute beside each: `FOLDER.logits`, and what it
                        computes with: `FOLDER.dense`
"""

import sys
from pathlib import Path
from typing import Any

import torch

WAYS: dict[str, dict[str, Any]] = {
    "symmetric": {"bits": 4},
    "act_order": {"bits": 4, "desc_act": True, "act_group_aware": False},
    "asymmetric": {"bits": 4, "sym": False},
    "asymmetric_eight": {"bits": 8, "sym": False},
    "three_bits": {"bits": 3, "desc_act": True, "act_group_aware": False},
    "second_version": {"bits": 4, "sym": False, "format": "gptq_v2"},
    "dynamic": {"bits": 4, "dynamic": {r"+:.*down_proj.*": {"bits": 8}}},
}


def make(model: str, folder: str) -> None:
    from gptqmodel import GPTQModel, QuantizeConfig

    torch.manual_seed(0)
    texts = [
        {"input_ids": torch.randint(6, 300, (1, 48)), "attention_mask": torch.ones(1, 48, dtype=torch.long)}
        for _ in range(32)
    ]
    for name, how in WAYS.items():
        made = GPTQModel.load(model, QuantizeConfig(**{"group_size": 32, "desc_act": False} | how))
        made.quantize(texts, batch_size=4)
        made.save(str(Path(folder) / name))


@torch.no_grad()
def read(ids: str, *folders: str) -> None:
    from transformers import AutoModelForCausalLM, GPTQConfig

    how = GPTQConfig(
        bits=4, backend="torch"
    )  # the bits are those of the folder; other kernels are compiled at the first use
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=how)
        dense = {
            name: module.dequantize_weight().t().float().contiguous()
            for name, module in model.named_modules()
            if hasattr(module, "dequantize_weight")
        }
        torch.save(dense, f"{folder}.dense")
        torch.save(model(input_ids=torch.load(ids)).logits.float(), f"{folder}.logits")


if __name__ == "__main__":
    {"make": make, "read": read}[sys.argv[1]](*sys.argv[2:])
