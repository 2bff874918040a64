"""Where batches come from. A source is asked for the batch of a step; what it gives depends on the step and the seed
alone, so a resumed run reads on where the killed one stopped without reading anything again."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree
from posttrain.functional.seeds import seed_of
from posttrain.models.policy import Models

REPLAY = 1  # tells the seed of replayed rows from that of the others


class Source(Protocol):
    """Gives the batch of each optimizer step."""

    def draw(self, step: int, models: Models) -> Batch:
        """The batch of `step`."""


@dataclass(frozen=True)
class FromRows:
    """Rows in an order that is drawn anew for every epoch; an epoch's last batch may be smaller."""

    trees: Sequence[Tree]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.trees) // self.batch_size)

    def draw(self, step: int, models: Models) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _order(len(self.trees), self.seed, epoch)
        rows = order[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        return Batch(tuple(self.trees[row] for row in rows))


@lru_cache(2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(seed, epoch)))


@dataclass(frozen=True)
class Replayed:
    """The batches of one source with rows of a general one behind them."""

    source: FromRows
    general: FromRows

    @classmethod
    def beside(cls, source: FromRows, general: Sequence[Tree], share: float) -> "Replayed":
        """As many general rows in a batch as make them `share` of it, one at least."""
        n = max(1, round(source.batch_size * share / (1 - share)))
        return cls(source, FromRows(general, n, seed_of(source.seed, REPLAY)))

    def draw(self, step: int, models: Models) -> Batch:
        return Batch(self.source.draw(step, models).trees + self.general.draw(step, models).trees)
