"""Preference learning with an adapter needs hardly more memory than imitation: its reference is the model without the
adapter, and is asked before there is a graph to keep."""

import json
from pathlib import Path

import pytest

from tests.engine.test_estimate import SIZES, furnish, measured

MOST = 1.3  # times SFT, which learns the same answers one by one
PAIRS, STEPS = 16, 2
PROMPT, CHOSEN, REJECTED = (
    "a" * 10,
    "b" * 140,
    "c" * 140,
)  # DPO writes a prompt once for both: a short one hides nothing


def peak(folder: Path, method: str, rows: list[dict[str, str]], batch: int) -> int:
    """Bytes at the peak of a training with LoRA that computes all of a step at once."""
    folder.mkdir()
    furnish(folder, **SIZES["narrow"] | {"vocab_size": 16_000})
    for name, some in (("rows", rows), ("warm_rows", rows[:2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return measured(folder, method, {"adapter": "lora", "micro_tokens": 1 << 16, "batch_size": batch})


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2])
def test_dpo_with_lora_needs_hardly_more_memory_than_sft_with_lora(epochs: int, tmp_path: Path):
    """In steps of equally many answer tokens; with a reference that is asked in every step, and with one whose answers
    are remembered, as in more epochs than one."""
    pairs = [{"prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED}] * (PAIRS * STEPS // epochs)
    alone = [{"prompt": PROMPT, "completion": answer} for answer in (CHOSEN, REJECTED)] * (PAIRS * STEPS)
    dpo, sft = peak(tmp_path / "dpo", "dpo", pairs, PAIRS), peak(tmp_path / "sft", "sft", alone, 2 * PAIRS)
    print(f"DPO {dpo / 2**20:.0f} MiB, SFT {sft / 2**20:.0f} MiB, {dpo / sft:.2f}")
    assert sft > 100 << 20, "too little to compare"
    assert dpo < MOST * sft
