"""Supervised fine-tuning: posttrain against TRL's SFTTrainer.

python benchmarks/sft.py                    # TRL padded, packed, grouped by length; five rounds of each
python benchmarks/sft.py --threads 1
python benchmarks/sft.py --dtype bfloat16 --settings padding float32 --batch 2 --steps 1 --shorter 10
"""

import argparse
import sys
from functools import partial
from typing import Any

from fair import Setting, Turns, bench

LEARNING_RATE = 2e-4
PACKED_LENGTH = 1024
SETTINGS = {
    "padding": Setting("without gradient checkpointing"),
    "checkpointing": Setting("with it, as TRL does by default"),
    "metrics": Setting("padding, with the entropy and accuracy that TRL logs by default"),
    "float32": Setting("padding, whatever --dtype says"),
    "padding_free": Setting("the rows of a step in one row"),
    "packing": Setting(f"rows packed into {PACKED_LENGTH} tokens beforehand, as many tokens a step", same_steps=False),
    "grouped": Setting("rows sorted by length, as group_by_length does on a large set", same_steps=False),
}


def posttrain_side(args: argparse.Namespace, turns: Turns) -> None:
    from ours import compete, policy, source_of
    from workload import held_out_nll, rows, settle

    from posttrain.methods.objectives.sft import SFT
    from posttrain.models.policy import Models

    told = settle(args)
    models = Models(policy(args))
    compete(
        args, turns, told, SFT(), models, source_of(args, rows(args, 1)), LEARNING_RATE,
        lambda: held_out_nll(models.policy.model, rows(args, 1, seed=1, n=args.batch)),
    )  # fmt: skip


def trl_side(args: argparse.Namespace, turns: Turns) -> None:
    import trl
    from datasets import Dataset
    from ours import orders
    from peer import compete, spare_metrics
    from trl.trainer import sft_trainer
    from workload import causal_lm, held_out_nll, rows, settle

    told = settle(args)
    if args.side != "metrics":
        spare_metrics(sft_trainer)
    trained = rows(args, 1)
    order = orders(args, trained)
    if args.side == "grouped":
        order = [sorted(order[0], key=lambda i: trained[i].tokens())] * len(order)
    if args.side == "packing":  # TRL packs rows in the order in which they come
        trained = [trained[i] for i in order[0]]
    examples = [
        {"input_ids": row.prompt + answer, "completion_mask": [0] * len(row.prompt) + [1] * len(answer)}
        for row in trained
        for answer in row.answers
    ]
    model = causal_lm(args)
    make = partial(trl.SFTTrainer, model=model, train_dataset=Dataset.from_list(examples))
    compete(
        args, turns, told, trl.SFTConfig, make, None if args.side == "packing" else order, LEARNING_RATE,
        changes=_changes(args, trained), completion_only_loss=True,
    )  # fmt: skip
    turns.end(lambda: held_out_nll(model, rows(args, 1, seed=1, n=args.batch)))


def _changes(args: argparse.Namespace, trained: list[Any]) -> dict[str, Any]:
    """What a setting changes in TRL's config."""
    a_step = sum(row.tokens() for row in trained) / args.steps
    return {
        "checkpointing": {"gradient_checkpointing": True},
        "float32": {"bf16": False},
        "padding_free": {"padding_free": True, "max_length": None},
        "packing": {
            "packing": True,
            "max_length": PACKED_LENGTH,
            "per_device_train_batch_size": max(1, round(a_step / PACKED_LENGTH)),
        },
    }.get(args.side, {})


if __name__ == "__main__":
    sys.exit(bench(__file__, __doc__ or "", SETTINGS, ["padding", "packing", "grouped"], posttrain_side, trl_side))
