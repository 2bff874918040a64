"""Pretrain the lab's base model from scratch, with the project's own loop, and write it into the package.

    python -m lab_build.pretrain                 # everything, about an hour of one core; a killed run goes on

A Llama of 2.7 million weights (width 256, 4 layers, 8 heads with 4 key/value heads) reads documents of the lab's
world, each seen on its own and once. It never meets a chat token; all it learns of them is that they never come next.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lab_build import tokenizer as tokenizers
from lab_build.card import card
from lab_build.evaluate import load, plain_text_figures
from posttrain import lab
from posttrain.data.batch import Batch
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.engine.source import FromRows
from posttrain.functional.layout import Branch, Tree
from posttrain.lab.text import documents
from posttrain.methods.objectives.sft import SFT
from posttrain.models import attention
from posttrain.models.policy import Models, Policy


@dataclass(frozen=True)
class Plan:
    """What decides the weights."""

    documents: int = 110_000
    documents_per_step: int = 24
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup: float = 0.03
    seed: int = 1

    @property
    def steps(self) -> int:
        return self.documents // self.documents_per_step


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """The architecture, with weights drawn from the seed."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=4,
        intermediate_size=512,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(attention.register())
    return model


def trees(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> list[Tree]:
    """Documents as trees: all tokens but the first are learnt, the end of the text included."""
    end = tokenizer.eos_token_id
    grown = []
    for ids in tokenizer(texts, add_special_tokens=False).input_ids:
        rest = (*ids[1:], end)
        grown.append(Tree((ids[0],), (Branch(rest, (True,) * len(rest)),)))
    return grown


def loss_on(policy: Policy, held_out: list[Tree]) -> float:
    """Mean loss per token, in nats."""
    batch = Batch(tuple(held_out))
    with torch.no_grad():
        return -float(policy.logps(batch).sum()) / batch.counts().tokens


class Log:
    """Keeps the mean loss of every 50 steps in a file, and prints it."""

    every = 50

    def __init__(self, path: Path):
        self.path, self.tokens, self.since = path, 0, time.time()
        self.losses: list[float] = []

    def __call__(self, kind: str, **fields: Any) -> None:
        if kind != "progress":
            return
        self.losses.append(fields["loss"])
        self.tokens += fields["tokens"]
        if fields["step"] % self.every == 0 or fields["step"] == fields["of"]:
            line = {
                "step": fields["step"], "loss": round(sum(self.losses) / len(self.losses), 4), "tokens": self.tokens,
                "seconds": round(time.time() - self.since, 1),
            }  # fmt: skip
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"step {fields['step']} of {fields['of']}: {line}", flush=True)
            self.losses, self.tokens, self.since = [], 0, time.time()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What was logged, one entry a step: a resumed run may log a step again, and the last one counts."""
        entries = [json.loads(line) for line in self.path.read_text().splitlines()]
        yield from {entry["step"]: entry for entry in entries}.values()


def save(policy: Policy, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The model in bf16, with its tokenizer; generation stops at the end of an answer and at the end of a text."""
    stops = [tokenizer.convert_tokens_to_ids(tokenizers.END), tokenizer.eos_token_id]
    model = policy.model
    model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id)
    model.to(torch.bfloat16).save_pretrained(str(folder))
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("lab_build/work"), help="checkpoints and the log")
    parser.add_argument("--out", type=Path, default=lab.base(), help="where the model goes")
    parser.add_argument("--documents", type=int, default=Plan.documents)
    parser.add_argument("--learning-rate", type=float, default=Plan.learning_rate)
    asked = parser.parse_args()
    plan = Plan(documents=asked.documents, learning_rate=asked.learning_rate)
    torch.set_num_threads(1)  # a second thread gains nothing at this width, and the result depends on the number
    asked.work.mkdir(parents=True, exist_ok=True)

    tokenizer = tokenizers.build()
    policy = Policy(new_model(tokenizer, plan.seed), tokenizer)
    read = trees(documents(plan.documents, plan.seed), tokenizer)
    held_out = trees([row["text"] for row in lab.rows("text/dev")], tokenizer)
    log = Log(asked.work / "log.jsonl")
    steps = Steps(plan.steps, plan.learning_rate, "linear", plan.warmup, plan.weight_decay)
    job = Job(folder=asked.out, scratch=asked.work, seed=plan.seed, emit=log)
    fit(Models(policy), SFT(), FromRows(read, plan.documents_per_step, plan.seed), steps, job)

    held_out_loss = loss_on(policy, held_out)
    save(policy, tokenizer, asked.out)
    curve = list(log.lines())
    summary = {
        "plan": asdict(plan),
        "weights": sum(p.numel() for p in policy.model.parameters()),
        "tokens": sum(tree.n_tokens() for tree in read),
        "seconds": round(sum(entry["seconds"] for entry in curve)),
        "loss_on_text_dev": round(held_out_loss, 4),
        "plain_text_on_dev": plain_text_figures(load(asked.out), "dev"),
        "curve": curve,
    }
    (asked.out / "training_log.json").write_text(json.dumps(summary, indent=1) + "\n")
    (asked.out / "README.md").write_text(card(summary))
    print(f"Done: loss {held_out_loss:.4f} on text/dev. The model is in {asked.out}.")


if __name__ == "__main__":
    main()
