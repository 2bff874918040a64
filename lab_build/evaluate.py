"""What the base model can do when it is asked in plain text: exact match by task, and word maps by examples.

    python -m lab_build.evaluate [--model FOLDER] [--split dev]

Greedy answers, cut at the first newline or the end of the text. Prints JSON.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain import lab
from posttrain.models.policy import Policy
from posttrain.models.sampler import Sampling, TransformersSampler

LONGEST_ANSWER = 64


def load(folder: Path) -> Policy:
    """The model of a folder, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return Policy(model, AutoTokenizer.from_pretrained(folder), layout="padded")


def complete(policy: Policy, prompts: Sequence[str]) -> list[str]:
    """The rest of the line after each prompt."""
    tokenizer = policy.tokenizer
    ends = {i for token, i in tokenizer.get_vocab().items() if "Ċ" in token}  # byte-level BPE writes a newline so
    sampler = TransformersSampler(policy, frozenset({*ends, tokenizer.eos_token_id}))
    asked = tokenizer(list(prompts), add_special_tokens=False).input_ids
    answers = sampler.sample(asked, Sampling(max_new_tokens=LONGEST_ANSWER))
    return [str(tokenizer.decode(ids, skip_special_tokens=True)).split("\n")[0].strip() for ids in answers]


def exact_by_task(policy: Policy, rows: Sequence[dict[str, Any]], prompts: Sequence[str]) -> dict[str, float]:
    """Share of exact answers by task, and over all rows."""
    right: dict[str, list[bool]] = defaultdict(list)
    for row, said in zip(rows, complete(policy, prompts), strict=True):
        for name in ("all", row["task"]):
            right[name].append(said == row["answer"])
    return {name: round(sum(marks) / len(marks), 3) for name, marks in sorted(right.items())}


def few_shot(policy: Policy, split: str, k: int, seed: int = 0) -> float:
    """Exact match on word maps after `k` examples of the same map."""
    rng = random.Random(seed)
    examples, rows = lab.rows("word_map/train"), lab.rows(f"word_map/{split}")
    prompts = []
    for row in rows:
        shown = rng.sample([e for e in examples if e["task"] == row["task"]], k)
        prompts.append("\n".join([*(f"{e['plain']} {e['answer']}" for e in shown), row["plain"]]))
    return exact_by_task(policy, rows, prompts)["all"]


def plain_text_figures(policy: Policy, split: str) -> dict[str, dict[str, float]]:
    """Exact match in plain text by dataset and task, and word maps by number of examples."""
    found = {}
    for name in ("chat", "facts", "chain", "howto"):
        rows = lab.rows(f"{name}/{split}")
        found[name] = exact_by_task(policy, rows, [row["plain"] for row in rows])
    found["word_map"] = {f"k={k}": few_shot(policy, split, k) for k in (0, 1, 2, 4, 8)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=lab.base())
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(plain_text_figures(load(asked.model), asked.split), indent=1))


if __name__ == "__main__":
    main()
