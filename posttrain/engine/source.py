"""Where batches come from. A source is asked for the batch of a step; what it gives depends on the step and the seed
alone, so a resumed run reads on where the killed one stopped without reading anything again."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree
from posttrain.functional.seeds import seed_of
from posttrain.models.policy import Models

from .job import Job
from .watch import Watch

MOST_TIMES = 4  # how many times its rows a batch replays at most

REPLAY = 1  # tells the seed of replayed rows from that of the others


class Source(Protocol):
    """Gives the batch of each step."""

    @abstractmethod
    def draw(self, step: int, models: Models) -> Batch:
        """The batch of `step`."""

    def told(self) -> Mapping[str, float]:
        """What there is to say of the batch drawn last, beside the loss's own metrics."""
        return {}

    def heard(self, step: int, sums: Mapping[str, float], job: Job) -> None:
        """What the step came to, for a source that goes by it."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """All that it must remember from step to step, plain numbers and lists."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what a checkpoint holds."""
        return None


@dataclass(frozen=True)
class FromRows(Source):
    """Rows in an order that is drawn anew for every epoch; an epoch's last batch may be smaller."""

    trees: Sequence[Tree]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.trees) // self.batch_size)

    def draw(self, step: int, models: Models) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = order_of(len(self.trees), self.seed, epoch)
        rows = order[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        return Batch(tuple(self.trees[row] for row in rows))


@lru_cache(2)
def order_of(n: int, seed: int, epoch: int) -> Tensor:
    """The order of `n` rows in an epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(seed, epoch)))


@dataclass(frozen=True)
class Replayed(Source):
    """The batches of one source with rows of general ones behind them: those of one, and of one more for every time
    that the training had to back off, up to all of them."""

    source: FromRows
    general: Sequence[FromRows]
    watch: Watch

    @classmethod
    def beside(cls, source: FromRows, general: Sequence[Tree], share: float, watch: Watch) -> "Replayed":
        """As many general rows in a batch as make them `share` of it, one at least."""
        n = n_replayed(source.batch_size, share)
        times = range(MOST_TIMES)
        return cls(source, [FromRows(general, n, seed_of(source.seed, REPLAY, time)) for time in times], watch)

    def draw(self, step: int, models: Models) -> Batch:
        drawn = (self.source, *self.general[: 1 + self.watch.backed_off])
        return Batch(tuple(tree for each in drawn for tree in each.draw(step, models).trees))


def n_replayed(batch_size: int, share: float) -> int:
    """Rows that are `share` of a batch when they come on top of `batch_size`; one at least."""
    return max(1, round(batch_size * share / (1 - share)))
