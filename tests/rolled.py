"""Batches as rollouts make them, from drawn trees: several answers to a prompt, what they earned, and which were cut off."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from posttrain.data.batch import Batch
from posttrain.engine.source import Source
from posttrain.functional.layout import Tree
from posttrain.models.policy import Models
from tests import tiny


def rolled(trees: Sequence[Tree], seed: int = 0, **columns: Any) -> Batch:
    """A tree is a group. A third of the answers are cut off and pay for it; others are given as `columns`."""
    batch, draw = Batch(tuple(trees)), torch.Generator().manual_seed(seed)
    finished = torch.as_tensor(columns.get("finished", (torch.rand(len(batch), generator=draw) < 2 / 3).float()))
    known = {
        "reward": torch.randn(len(batch), generator=draw),
        "finished": finished,
        "penalty": 0.3 * (1 - finished),
        "group": batch.tree_of,
        "longest": torch.full((len(batch),), 16),
        "kl_coefficient": torch.full((len(batch),), 0.1),
    }
    return batch.having(**known | {name: torch.as_tensor(value) for name, value in columns.items()})


def some(n_prompts: int = 3, n_answers: int = 3, seed: int = 0) -> Batch:
    """Answers to a few prompts."""
    return rolled(tiny.trees(n_prompts, n_answers, seed=seed), seed)


@dataclass
class Again(Source):
    """A source that gives the same batch at every step."""

    batch: Batch

    def draw(self, step: int, models: Models) -> Batch:
        return self.batch
