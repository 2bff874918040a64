"""Kahneman-Tversky optimisation: posttrain against TRL's KTOTrainer.

    python benchmarks/kto.py                    # TRL with the reference in every step, and computed beforehand
    python benchmarks/kto.py --threads 1

Either side pairs a prompt with another row's answer, posttrain with that of the next row in the live batch, TRL with that
of the row before, once for all epochs. TRL's rows are those of all rounds in posttrain's order, each batch turned round:
so both have the same pairs in the same steps. `precomputed` therefore reads the reference for every round beforehand,
where a training of several epochs would read it once; in it posttrain still asks its reference in every step, as it
pairs rows anew.
"""

import argparse
import sys
from functools import partial

from fair import Turns, bench
from preference import REFERENCE_SEED, REFERRING, WITH_METRICS

LEARNING_RATE = 1e-4


def posttrain_side(args: argparse.Namespace, turns: Turns) -> None:
    from ours import compete, policy, reference, source_of
    from workload import BETA, held_out_kto, rows, settle

    from posttrain.methods.objectives.kto import KTO
    from posttrain.models.policy import Models

    told = settle(args)
    models = Models(policy(args), frozen := reference(args))
    both = models.policy.model, frozen.model
    compete(
        args, turns, told, KTO(beta=BETA), models, source_of(args, rows(args, 1)), LEARNING_RATE,
        lambda: held_out_kto(*both, rows(args, 1, seed=1, n=args.batch)),
    )  # fmt: skip


def trl_side(args: argparse.Namespace, turns: Turns) -> None:
    import trl
    from datasets import Dataset
    from ours import orders
    from peer import compete, spare_metrics
    from trl.trainer import kto_trainer
    from workload import BETA, causal_lm, held_out_kto, rows, settle, words

    told = settle(args)
    if args.side not in WITH_METRICS:
        spare_metrics(kto_trainer)
    known, n = rows(args, 1), args.steps * args.batch
    told_rounds = orders(args, known)
    batches = [order[start : start + args.batch] for order in told_rounds for start in range(0, n, args.batch)]
    trained = [known[i] for batch in batches for i in reversed(batch)]
    examples = [
        {"prompt": words(row.prompt), "completion": words(row.answers[0]), "label": row.grades[0] > 0.5}
        for row in trained
    ]
    order = [list(range(number * n, (number + 1) * n)) for number in range(len(told_rounds))]
    model, reference = causal_lm(args), causal_lm(args, REFERENCE_SEED)
    make = partial(trl.KTOTrainer, model=model, ref_model=reference, train_dataset=Dataset.from_list(examples))
    compete(args, turns, told, trl.KTOConfig, make, order, LEARNING_RATE, beta=BETA, max_length=None)
    turns.end(lambda: held_out_kto(model, reference, rows(args, 1, seed=1, n=args.batch)))


if __name__ == "__main__":
    sys.exit(bench(__file__, __doc__ or "", REFERRING, ["padding", "precomputed"], posttrain_side, trl_side))
