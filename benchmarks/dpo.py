"""Direct preference optimisation: posttrain against TRL's DPOTrainer.

    python benchmarks/dpo.py                    # TRL with the reference in every step, and computed beforehand
    python benchmarks/dpo.py --threads 1

The reference is another random model, so that the first loss is not simply log 2.
"""

import argparse
import sys
from tempfile import TemporaryDirectory
from typing import Any

from fair import Setting, Turns, bench

LEARNING_RATE = 1e-4
REFERENCE_SEED = 1
SETTINGS = {
    "padding": Setting("without gradient checkpointing"),
    "checkpointing": Setting("with it, as TRL does by default"),
    "metrics": Setting("padding, with the entropy, logits and accuracy that TRL logs by default"),
    "float32": Setting("padding, whatever --dtype says"),
    "precomputed": Setting("padding, the reference computed once beforehand: its time stands under `prepared`"),
}
CHANGES: dict[str, dict[str, Any]] = {
    "checkpointing": {"gradient_checkpointing": True},
    "float32": {"bf16": False},
    "precomputed": {"precompute_ref_log_probs": True},
}


def posttrain_side(args: argparse.Namespace, turns: Turns) -> None:
    from ours import policy, source_of, train
    from workload import BETA, held_out_dpo, rows, settle

    from posttrain.engine.reference import Remembered
    from posttrain.methods.objectives.dpo import DPO
    from posttrain.models.policy import Models

    told = settle(args)
    reference = policy(args, REFERENCE_SEED)
    reference.model.requires_grad_(False)
    trees = source_of(args, rows(args, 2)).trees
    models = Models(policy(args), Remembered(reference, trees))  # as a training of several epochs does
    turns.wait(**told, computes_in=models.policy.dtype)
    train(args, turns, DPO(beta=BETA), models, rows(args, 2), LEARNING_RATE)
    both = models.policy.model, reference.model
    turns.end(lambda: held_out_dpo(*both, rows(args, 2, seed=1, n=args.batch)))


def trl_side(args: argparse.Namespace, turns: Turns) -> None:
    import trl
    from datasets import Dataset
    from ours import orders
    from peer import InOrder, InTurns, count_tokens, spare_metrics, training
    from trl.trainer import dpo_trainer
    from workload import BETA, SPECIAL, causal_lm, held_out_dpo, rows, settle, tokenizer

    told = settle(args)
    if args.side != "metrics":
        spare_metrics(dpo_trainer)
    trained = rows(args, 2)

    def text(ids: list[int]) -> str:
        return "".join(f" t{i}" for i in ids if i >= len(SPECIAL))  # TRL adds EOS itself

    examples = [
        {"prompt": text(row.prompt), "chosen": text(row.answers[0]), "rejected": text(row.answers[1])}
        for row in trained
    ]
    with TemporaryDirectory() as output:
        config = trl.DPOConfig(
            **training(args, output, LEARNING_RATE) | CHANGES.get(args.side, {}), beta=BETA, max_length=None
        )
        model, reference = causal_lm(args), causal_lm(args, REFERENCE_SEED)
        trainer = trl.DPOTrainer(
            model, reference, config, train_dataset=Dataset.from_list(examples), processing_class=tokenizer(args),
            callbacks=[InTurns(turns, **told, computes_in="bfloat16" if config.bf16 else "float32")],
        )  # fmt: skip
        trainer._get_train_sampler = lambda *_: InOrder(orders(args, trained))
        count_tokens(trainer, turns)
        trainer.train()
    turns.end(lambda: held_out_dpo(model, reference, rows(args, 2, seed=1, n=args.batch)))


if __name__ == "__main__":
    sys.exit(bench(__file__, __doc__ or "", SETTINGS, ["padding", "precomputed"], posttrain_side, trl_side))
