"""Where batches come from. A source is asked for the batch of a step; what it gives depends on the step and the seed
alone, so a resumed run reads on where the killed one stopped without reading anything again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree
from posttrain.functional.seeds import seed_of
from posttrain.models.policy import Models


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
        order = torch.randperm(len(self.trees), generator=torch.Generator().manual_seed(seed_of(self.seed, epoch)))
        rows = order[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        return Batch(tuple(self.trees[row] for row in rows))
