"""TRL's side: its own trainers with its own settings, given the rows in posttrain's order and its turns."""

import argparse
import functools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from fair import Turns
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback


def training(args: argparse.Namespace, output: str, learning_rate: float) -> dict[str, Any]:
    """Arguments of a TRL config that make it take posttrain's steps: AdamW, a constant rate, gradients clipped to 1."""
    return {
        "output_dir": output,
        "use_cpu": True,
        "bf16": args.dtype == "bfloat16",
        "gradient_checkpointing": False,
        "per_device_train_batch_size": args.batch,
        "num_train_epochs": args.repeats + 1,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": [],
        "save_strategy": "no",
        "seed": 0,
    }


class InOrder(Sampler[int]):
    """Rows as told, one list for each epoch."""

    def __init__(self, orders: list[list[int]]) -> None:
        self._orders, self._epochs = orders, iter(orders)

    def __iter__(self) -> Iterator[int]:
        return iter(next(self._epochs))

    def __len__(self) -> int:
        return len(self._orders[0])


class InTurns(TrainerCallback):
    """A round is an epoch."""

    def __init__(self, turns: Turns, **told: Any) -> None:
        self._turns, self._told = turns, told

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._turns.wait(**self._told)

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self._turns.loss(float(logs["loss"]))

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self._turns.done()


def count_tokens(trainer: Trainer, turns: Turns) -> None:
    """Reads what the trainer's own collator makes: only what is learnt and what is not padding is counted."""
    collate = trainer.data_collator

    def counting(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        made = collate(examples)
        learnt = made["labels"] != -100 if "labels" in made else made["completion_mask"]
        real = made["attention_mask"] if "attention_mask" in made else torch.ones_like(made["input_ids"])
        turns.count(int(learnt.sum()), int(real.sum()))
        return made

    trainer.data_collator = counting


def spare_metrics(trainers: ModuleType) -> None:
    """TRL's head computes entropy and accuracy beside each log-probability, and has no option to leave them out.
    posttrain computes neither, so here TRL's need not either: they are zero."""
    add_fused_lm_head = trainers.add_fused_lm_head

    def add_bare_lm_head(model: Any, *args: Any, outputs: tuple[str, ...] = (), **settings: Any) -> None:
        add_fused_lm_head(model, *args, outputs=("log_probs",), **settings)
        forward = model.forward

        @functools.wraps(forward)
        def filled(*inputs: Any, **named: Any) -> Any:
            made = forward(*inputs, **named)
            for name in outputs if named.get("fused_lm_head") else ():
                if getattr(made, name) is None:
                    setattr(
                        made, name, torch.zeros_like(made.log_probs, dtype=torch.bool if name == "is_top1" else None)
                    )
            return made

        model.forward = filled

    trainers.add_fused_lm_head = add_bare_lm_head
