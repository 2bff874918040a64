"""Direct preference optimisation: posttrain against TRL's DPOTrainer.

python benchmarks/dpo.py                    # TRL with the reference in every step, and computed beforehand
python benchmarks/dpo.py --threads 1
"""

import argparse
import sys
from functools import partial

from fair import Turns, bench
from preference import REFERENCE_SEED, REFERRING, WITH_METRICS

LEARNING_RATE = 1e-4


def posttrain_side(args: argparse.Namespace, turns: Turns) -> None:
    from ours import compete, policy, reference, source_of
    from workload import BETA, held_out_dpo, rows, settle

    from posttrain.engine.reference import Remembered
    from posttrain.methods.objectives.dpo import DPO
    from posttrain.models.policy import Models

    told = settle(args)
    frozen, source = reference(args), source_of(args, rows(args, 2))
    models = Models(policy(args), Remembered(frozen, source.trees))  # as a training of several epochs does
    both = models.policy.model, frozen.model
    compete(
        args, turns, told, DPO(beta=BETA), models, source, LEARNING_RATE,
        lambda: held_out_dpo(*both, rows(args, 2, seed=1, n=args.batch)),
    )  # fmt: skip


def trl_side(args: argparse.Namespace, turns: Turns) -> None:
    import trl
    from ours import orders
    from peer import compete, pairs, spare_metrics
    from trl.trainer import dpo_trainer
    from workload import BETA, causal_lm, held_out_dpo, rows, settle

    told = settle(args)
    if args.side not in WITH_METRICS:
        spare_metrics(dpo_trainer)
    trained = rows(args, 2)
    order = orders(args, trained)
    model, reference = causal_lm(args), causal_lm(args, REFERENCE_SEED)
    make = partial(trl.DPOTrainer, model=model, ref_model=reference, train_dataset=pairs(trained))
    compete(args, turns, told, trl.DPOConfig, make, order, LEARNING_RATE, beta=BETA, max_length=None)
    turns.end(lambda: held_out_dpo(model, reference, rows(args, 2, seed=1, n=args.batch)))


if __name__ == "__main__":
    sys.exit(bench(__file__, __doc__ or "", REFERRING, ["padding", "precomputed"], posttrain_side, trl_side))
