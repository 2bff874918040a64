"""posttrain's side: the real loop over the real source, with an objective as recipes use it."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fair import Turns
from workload import Row, causal_lm, tokenizer

from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.engine.method import Objective
from posttrain.engine.source import FromRows
from posttrain.functional.layout import Branch, Tree
from posttrain.models import attention
from posttrain.models.policy import Models, Policy

ORDER_SEED = 0


def policy(args: argparse.Namespace, seed: int = 0) -> Policy:
    model = causal_lm(args, seed)
    model.set_attn_implementation(attention.register())
    return Policy(model, tokenizer(args), dtype=args.dtype, micro_tokens=args.micro_tokens)


def source_of(args: argparse.Namespace, rows: list[Row]) -> FromRows:
    trees = [
        Tree(tuple(row.prompt), tuple(Branch(tuple(answer), (True,) * len(answer)) for answer in row.answers))
        for row in rows
    ]
    return FromRows(trees, args.batch, ORDER_SEED)


def orders(args: argparse.Namespace, rows: list[Row]) -> list[list[int]]:
    """The rows of each round in the order in which posttrain takes them, for other sides to follow."""
    source, models = source_of(args, rows), Models(policy(args))
    place = {id(tree): i for i, tree in enumerate(source.trees)}
    return [
        [
            place[id(tree)]
            for step in range(source.steps_per_epoch)
            for tree in source.draw(number * source.steps_per_epoch + step, models).trees
        ]
        for number in range(args.repeats + 1)
    ]


def train(
    args: argparse.Namespace, turns: Turns, objective: Objective, models: Models, rows: list[Row], learning_rate: float
) -> None:
    """All rounds, an epoch each; the first turn is already ours."""
    source = source_of(args, rows)

    def emit(kind: str, **fields: Any) -> None:
        if kind != "progress":
            return
        turns.loss(fields["loss"])
        if fields["step"] % source.steps_per_epoch == 0:
            turns.count(sum(row.answer_tokens() for row in rows), sum(row.tokens() for row in rows))
            turns.done()
            if fields["step"] < fields["of"]:
                turns.wait()

    steps = Steps(
        (args.repeats + 1) * source.steps_per_epoch, learning_rate, schedule="constant", warmup=0.0,
        micro_tokens=args.micro_tokens, checkpoint_seconds=float("inf"),
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        fit(models, objective, source, steps, Job(Path(folder), Path(folder), emit=emit))
