"""posttrain's side: the real loop over the real source, with an objective as recipes use it."""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fair import Turns
from preference import REFERENCE_SEED
from workload import Row, causal_lm, reward_model, tokenizer

from posttrain.data.batch import Batch
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.engine.method import Objective
from posttrain.engine.source import FromRows
from posttrain.functional.layout import Branch, Tree
from posttrain.models import attention
from posttrain.models.policy import Models, Policy
from posttrain.models.scorer import Scorer

ORDER_SEED = 0


def policy(args: argparse.Namespace, seed: int = 0, kind: type[Policy] = Policy) -> Policy:
    model = reward_model(args, seed) if kind is Scorer else causal_lm(args, seed)
    model.set_attn_implementation(attention.register())
    return kind(model, tokenizer(args), dtype=args.dtype, micro_tokens=args.micro_tokens)


def reference(args: argparse.Namespace) -> Policy:
    """A policy that is not trained, and another one than that which is."""
    made = policy(args, REFERENCE_SEED)
    made.model.requires_grad_(False)
    return made


def source_of(args: argparse.Namespace, rows: list[Row]) -> FromRows:
    trees = [
        Tree(
            tuple(row.prompt),
            tuple(
                Branch(tuple(answer), (True,) * len(answer), grade)
                for answer, grade in zip(row.answers, row.grades, strict=True)
            ),
        )
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


class Counted:
    """A source whose tokens are counted for the referee; `lap` is the name under which it is timed by itself, if it is."""

    def __init__(self, source: Any, turns: Turns, lap: str | None = None) -> None:
        self._source, self._turns, self._lap = source, turns, lap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def draw(self, step: int, models: Models) -> Batch:
        with self._turns.lap(self._lap) if self._lap else nullcontext():
            drawn: Batch = self._source.draw(step, models)
        n_learnt = drawn.counts().tokens
        self._turns.count(n_learnt, n_learnt + sum(len(tree.prompt) * len(tree.branches) for tree in drawn.trees))
        return drawn


def compete(
    args: argparse.Namespace,
    turns: Turns,
    told: dict[str, Any],
    objective: Objective,
    models: Models,
    source: Any,
    learning_rate: float,
    held_out: Callable[[], float | None] = lambda: None,
    lap: str | None = None,
) -> None:
    """Takes all turns, an epoch of `source` each, and is judged by `held_out`."""

    def emit(kind: str, **fields: Any) -> None:
        if kind != "progress":
            return
        turns.loss(fields["loss"])
        if fields["step"] % source.steps_per_epoch == 0:
            turns.done()
            if fields["step"] < fields["of"]:
                turns.wait()

    turns.wait(**told, computes_in=models.policy.dtype)
    train(args, objective, models, Counted(source, turns, lap), learning_rate, args.repeats + 1, emit)
    turns.end(held_out)


def train(
    args: argparse.Namespace,
    objective: Objective,
    models: Models,
    source: Any,
    learning_rate: float,
    epochs: int = 1,
    emit: Callable[..., None] = lambda *_, **__: None,
) -> None:
    """The loop at a constant rate, with nothing kept."""
    steps = Steps(
        epochs * source.steps_per_epoch, learning_rate, schedule="constant", warmup=0.0,
        micro_tokens=args.micro_tokens, checkpoint_seconds=float("inf"),
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        fit(models, objective, source, steps, Job(Path(folder), Path(folder), emit=emit))
