"""Odds ratio preference optimisation: posttrain against TRL's ORPOTrainer.

    python benchmarks/orpo.py
    python benchmarks/orpo.py --settings padding defaults

The losses are of two definitions: TRL's cross-entropy is that of prompt and chosen answer, posttrain's that of the
answer alone. TRL tells the tokens of its cross-entropy by `attention_mask == 1`; here the prompt is marked by 2, which the
model reads as it reads 1. So TRL computes what it always does, and its loss is posttrain's, step by step. `prompts` leaves
the loss as TRL has it, and only token counts are compared.
"""

import argparse
import sys
from functools import partial
from typing import Any

from fair import Setting, Turns, bench
from preference import PADDED

LEARNING_RATE = 1e-4
SETTINGS = {
    "padding": PADDED["padding"],
    "defaults": PADDED["checkpointing"],
    "eager": PADDED["eager"],
    "float32": PADDED["float32"],
    "prompts": Setting("padding, with the cross-entropy of prompts in its loss as TRL has it", same_loss=False),
}
CHANGES = {"defaults": {"gradient_checkpointing": True}, "float32": {"bf16": False}}


def posttrain_side(args: argparse.Namespace, turns: Turns) -> None:
    from ours import compete, policy, source_of
    from workload import WEIGHT, held_out_orpo, rows, settle

    from posttrain.methods.objectives.orpo import ORPO
    from posttrain.models.policy import Models

    told, models = settle(args), Models(policy(args))
    compete(
        args, turns, told, ORPO(weight=WEIGHT), models, source_of(args, rows(args, 2)), LEARNING_RATE,
        lambda: held_out_orpo(models.policy.model, rows(args, 2, seed=1, n=args.batch)),
    )  # fmt: skip


def trl_side(args: argparse.Namespace, turns: Turns) -> None:
    from ours import orders
    from peer import compete, pairs
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    from workload import BOS, WEIGHT, causal_lm, held_out_orpo, rows, settle

    told = settle(args)
    trained = rows(args, 2)
    order, model = orders(args, trained), causal_lm(args)

    def make(processing_class: Any, **given: Any) -> Any:
        processing_class.bos_token = None  # TRL would put it before a prompt, and posttrain's prompts have none
        trainer = ORPOTrainer(model=model, train_dataset=pairs(trained), processing_class=processing_class, **given)
        if args.side != "prompts":
            trainer.concatenated_inputs = partial(_prompts_marked, trainer.concatenated_inputs)
        return trainer

    assert BOS not in trained[0].prompt
    compete(
        args, turns, told, ORPOConfig, make, order, LEARNING_RATE,
        changes=CHANGES.get(args.side, {}), beta=WEIGHT, max_length=4096,
    )  # fmt: skip
    turns.end(lambda: held_out_orpo(model, rows(args, 2, seed=1, n=args.batch)))


def _prompts_marked(concatenated: Any, *batch: Any, **told: Any) -> dict[str, Any]:
    made: dict[str, Any] = concatenated(*batch, **told)
    in_prompt = (made["concatenated_attention_mask"] == 1) & (made["concatenated_labels"] == -100)
    made["concatenated_attention_mask"] = made["concatenated_attention_mask"] + in_prompt
    return made


if __name__ == "__main__":
    sys.exit(bench(__file__, __doc__ or "", SETTINGS, ["padding", "prompts"], posttrain_side, trl_side))
