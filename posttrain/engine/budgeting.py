"""Mixtures of bits within a budget: from the most bits down, step by step, the cheapest step first.

Losses of single matrices nearly add up, which orders the steps (`functional/budget.py`). Whole mixtures are solved by GPTQ and
measured; how far a measured loss is from the sum says which mixture to try next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from torch import Tensor

from posttrain.functional.budget import Option, Step, chosen, first_below, steps
from posttrain.functional.rounding import DAMP, Integers
from posttrain.models.matrices import decoder
from posttrain.models.precision import device
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError

from .job import Job
from .layerwise import Parts, Told, compress
from .sensitivity import Aside
from .solving import Matrices


@dataclass
class Mixtures:
    """The mixtures of a model's matrices after n steps down. `names` are the matrices and what each is treated with, `others` the
    bytes of what is not rounded, `n_weights` the number of what is; `known` are measured losses."""

    model: Model
    ids: Tensor
    aside: Aside
    options: Mapping[str, Sequence[Option]]
    names: Mapping[str, str]
    grids: Mapping[int, Integers]
    correct: float
    others: float
    n_weights: int
    job: Job
    known: dict[int, float] = field(default_factory=dict)
    solved: dict[int, tuple[Parts, list[Told]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.taken: list[Step] = steps(self.options)

    def bits(self, n: int) -> dict[str, int]:
        """The bits of each matrix."""
        bits = self._bits(n)
        return {name: bits[unit] for name, unit in self.names.items()}

    def of(self, n: int) -> dict[str, Integers]:
        """What each matrix may become."""
        return {name: self.grids[bits] for name, bits in self.bits(n).items()}

    def _bits(self, n: int) -> dict[str, int]:
        return chosen(self.options, self.taken[:n])

    def bytes(self, n: int) -> float:
        """Bytes of all matrices."""
        bits = self._bits(n)
        return sum(option.bytes for name, each in self.options.items() for option in each if option.name == bits[name])

    def predicted(self) -> list[float]:
        """The sum of the losses of single matrices after 0, 1, ... steps."""
        bits = self._bits(0)
        start = sum(option.loss for name, each in self.options.items() for option in each if option.name == bits[name])
        return list(accumulate((step.lost for step in self.taken), initial=start))

    def measure(self, n: int) -> float:
        """What is lost, solved whole."""
        weights = decoder(self.model, "compressed")
        scratch = self.job.scratch / f"mixture-{n}"
        scratch.mkdir(exist_ok=True)
        solver = Matrices(self.of(n), search=True, damp=DAMP, correct=self.correct)
        self.solved[n] = compress(weights, self.ids, solver, device(), replace(self.job, scratch=scratch))
        self.known[n] = self.aside.kl(weights)
        self.job.note(f"{8 * self.bytes(n) / self.n_weights:.2f} bits a weight lose {self.known[n]:.2g} nats a token")
        return self.known[n]


def within_bytes(mixtures: Mixtures, share: float, dense: float) -> int:
    """The fewest steps until all bytes are within a share of the `dense` model's. Raises ModelError where none are enough."""
    n = first_below(mixtures.taken, share * dense - mixtures.others, mixtures.bytes(0))
    if n is None:
        least = (mixtures.others + mixtures.bytes(len(mixtures.taken))) / dense
        raise ModelError(
            f"The smallest mixture has {least:.1%} of the bytes, {mixtures.others / dense:.1%} of them in embeddings, norms and "
            f"head, which are not rounded. Write `within: {{bytes: {least + 0.0005:.1%}}}` or more, or allow fewer `bits`."
        )
    mixtures.measure(n)
    return n


def within_loss(mixtures: Mixtures, limit: float, tries: int) -> int:
    """The most steps whose measured loss is within a limit. Raises ModelError where none of those tried is."""
    n = seek(mixtures.measure, mixtures.predicted(), limit, tries)
    if n is None:
        raise ModelError(
            f"No mixture that was tried loses as little as {limit:g} nats a token; the closest loses "
            f"{min(mixtures.known.values()):.2g}. Write a larger `kl`, allow 8 `bits`, or smaller groups."
        )
    return n


def seek(measure: Callable[[int], float], predicted: Sequence[float], limit: float, tries: int) -> int | None:
    """The most steps whose measured loss is within a limit, in so many `tries`; None if none was. `predicted[n]` is the loss that
    n steps should have; how far a measured one is from it says which n to try next."""
    low, high, n = -1, len(predicted), _last_within(predicted, limit)
    for _ in range(tries):
        loss = measure(n)
        low, high = (n, high) if loss <= limit else (low, n)
        if high - low <= 1:
            break
        off = loss / predicted[n] if loss > 0 and predicted[n] > 0 else 1.0
        n = min(max(_last_within(predicted, limit / off), low + 1), high - 1)
    return low if low >= 0 else None


def _last_within(predicted: Sequence[float], limit: float) -> int:
    return max((n for n, loss in enumerate(predicted) if loss <= limit), default=0)
