"""A reward model: posttrain against TRL's RewardTrainer, on the same pairs.

python benchmarks/reward.py
python benchmarks/reward.py --settings padding checkpointing
"""

import argparse
import sys
from functools import partial

from fair import Turns, bench
from preference import PADDED

LEARNING_RATE = 1e-4


def posttrain_side(args: argparse.Namespace, turns: Turns) -> None:
    from ours import compete, policy, source_of
    from workload import held_out_reward, rows, settle

    from posttrain.methods.objectives.reward import Reward
    from posttrain.models.policy import Models
    from posttrain.models.scorer import Scorer

    told, models = settle(args), Models(policy(args, kind=Scorer))
    compete(
        args, turns, told, Reward(), models, source_of(args, rows(args, 2)), LEARNING_RATE,
        lambda: held_out_reward(models.policy.model, rows(args, 2, seed=1, n=args.batch)),
    )  # fmt: skip


def trl_side(args: argparse.Namespace, turns: Turns) -> None:
    import torch
    import trl
    from ours import orders
    from peer import compete, count_tokens, pairs
    from workload import held_out_reward, reward_model, rows, settle

    told = settle(args)
    trained = rows(args, 2)
    order, model = orders(args, trained), reward_model(args)
    lengths = {tuple(row.prompt + answer): len(answer) for row in trained for answer in row.answers}

    def of_answers(made: dict[str, torch.Tensor]) -> int:
        """TRL does not know where an answer begins: it is looked up by its text."""
        texts = zip(made["input_ids"], made["attention_mask"].bool(), strict=True)
        return sum(lengths[tuple(ids[real].tolist())] for ids, real in texts)

    make = partial(trl.RewardTrainer, model=model, train_dataset=pairs(trained))
    compete(
        args, turns, told, trl.RewardConfig, make, order, LEARNING_RATE,
        count=partial(count_tokens, learnt=of_answers), max_length=None,
    )  # fmt: skip
    turns.end(lambda: held_out_reward(model, rows(args, 2, seed=1, n=args.batch)))


if __name__ == "__main__":
    sys.exit(bench(__file__, __doc__ or "", PADDED, ["padding"], posttrain_side, trl_side))
