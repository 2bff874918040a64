"""TRL's side: its own trainers with its own settings, given the rows in posttrain's order and its turns."""

import argparse
import functools
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from datasets import Dataset
from fair import Turns
from preference import CHANGES
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from workload import Row, tokenizer, words


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
        self._turns, self.told = turns, told

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._turns.wait(**self.told)

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self._turns.loss(float(logs["loss"]))

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self._turns.done()


def compete(
    args: argparse.Namespace,
    turns: Turns,
    told: dict[str, Any],
    config: Callable[..., Any],
    make: Callable[..., Trainer],
    orders: list[list[int]] | None,
    learning_rate: float,
    count: "Callable[[Trainer, Turns], None] | None" = None,
    changes: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Takes all turns: with the trainer that `make` gives, rows in these `orders` (in its own where there are none) and
    tokens as `count` reads them. `changes` are what the setting changes in TRL's config."""
    changes = CHANGES.get(args.side, {}) if changes is None else changes
    with TemporaryDirectory() as output:
        made = config(**training(args, output, learning_rate) | options | changes)
        callback = InTurns(turns, **told, computes_in="bfloat16" if made.bf16 else "float32")
        trainer = make(args=made, processing_class=tokenizer(args), callbacks=[callback])
        if args.side == "eager":
            for model in filter(None, (trainer.model, getattr(trainer, "ref_model", None))):
                model.set_attn_implementation("eager")
        if orders is not None:
            trainer._get_train_sampler = lambda *_: InOrder(orders)
        (count or count_tokens)(trainer, turns)
        trainer.train()


def pairs(rows: list[Row]) -> Dataset:
    """Rows as trainers of pairs read them."""
    return Dataset.from_list(
        [
            {"prompt": words(row.prompt), "chosen": words(row.answers[0]), "rejected": words(row.answers[1])}
            for row in rows
        ]
    )


def count_tokens(
    trainer: Trainer, turns: Turns, learnt: Callable[[dict[str, torch.Tensor]], int] | None = None
) -> None:
    """Reads what the trainer's own collator makes: only what is learnt and what is not padding is counted."""
    collate = trainer.data_collator

    def counting(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        made = collate(examples)
        masks = [made[name] for name in ("attention_mask", *HALVES["attention_mask"]) if name in made]
        turns.count((learnt or _learnt)(made), sum(int(mask.sum()) for mask in masks) or made["input_ids"].numel())
        return made

    trainer.data_collator = counting


HALVES = {name: (f"chosen_{name}", f"rejected_{name}") for name in ("labels", "attention_mask")}  # of ORPO's batches


def _learnt(made: dict[str, torch.Tensor]) -> int:
    labels = [made[name] for name in ("labels", *HALVES["labels"]) if name in made]
    return sum(int((each != -100).sum()) for each in labels) if labels else int(made["completion_mask"].sum())


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
