"""Mixtures of ways to store matrices within a budget: from the largest down, step by step, the cheapest step first.

Losses of single matrices nearly add up, which orders the steps (`functional/budget.py`). Whole mixtures are solved by GPTQ and
measured; how far a measured loss is from the sum says which mixture to try next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from torch import Tensor

from posttrain.functional.budget import Kind, Option, Step, chosen, first_below, steps
from posttrain.functional.rounding import DAMP, Grid
from posttrain.models.matrices import decoder, matrices_in, units_in
from posttrain.models.precision import device
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError

from .job import Job
from .layerwise import Parts, Told, compress
from .losing import Limits, Lost
from .sensitivity import moved
from .solving import Matrices, Solved
from .storing import Storing


@dataclass
class Mixtures:
    """The mixtures of a model's matrices in one format after n steps down. `units` are the matrices and what each is treated with,
    `rest` the bytes of what is not rounded, `dense` those of the whole model as it is, which shares are of; `known` are measured losses."""

    model: Model
    ids: Tensor
    limits: Limits
    storing: Storing
    options: Mapping[str, Sequence[Option]]
    units: Mapping[str, str]
    how: Solved
    rest: float
    dense: float
    job: Job
    known: dict[int, Lost] = field(default_factory=dict)
    solved: dict[int, tuple[Parts, list[Told]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.taken: list[Step] = steps(self.options)

    def kinds(self, n: int) -> dict[str, Kind]:
        """What each matrix is stored as."""
        kinds = self._kinds(n)
        return {name: kinds[unit] for name, unit in self.units.items()}

    def _kinds(self, n: int) -> dict[str, Kind]:
        return chosen(self.options, self.taken[:n])

    def grids(self, n: int) -> dict[str, Grid]:
        """What each matrix may become."""
        return {name: self.storing.grids[kind] for name, kind in self.kinds(n).items()}

    def matrix_bytes(self, n: int) -> float:
        """Bytes of all matrices."""
        kinds = self._kinds(n)
        return sum(option.bytes for name, each in self.options.items() for option in each if option.name == kinds[name])

    def share(self, n: int) -> float:
        """Bytes of all, as a share of the model's own."""
        return (self.rest + self.matrix_bytes(n)) / self.dense

    def first_below(self, share: float) -> int | None:
        """The fewest steps until all bytes are within a share; None where all are not enough."""
        return first_below(self.taken, share * self.dense - self.rest, self.matrix_bytes(0))

    def predicted(self) -> list[float]:
        """The sum of the losses of single matrices after 0, 1, ... steps."""
        kinds = self._kinds(0)
        start = sum(option.loss for name, each in self.options.items() for option in each if option.name == kinds[name])
        return list(accumulate((step.lost for step in self.taken), initial=start))

    def measure(self, n: int) -> Lost:
        """What is lost, solved whole and all else as it will be stored."""
        weights = decoder(self.model, "compressed")
        scratch = self.job.scratch / f"{self.storing.form}-{n}"
        scratch.mkdir(exist_ok=True)
        solver = Matrices(self.grids(n), search=True, damp=DAMP, correct=self.how.correct, polish=self.how.polish)
        solved = compress(weights, self.ids, solver, device(), replace(self.job, scratch=scratch))
        weights.to(device())  # measured whole, as it will be by the suite
        self.storing.rest(weights, self.units)
        self.known[n] = self.limits.lost(weights)
        if self.known[n].within:  # it takes the place of any that was larger
            self.solved = {n: solved}
        self.job.note(f"{self.storing.form} of {self.share(n):.1%} of the bytes loses {self.known[n]}")
        return self.known[n]


def mixtures_in(storing: Storing, weights: Any, losses: Mapping[str, float], dense: float, **beside: Any) -> Mixtures:
    """All mixtures in a format; `losses` are those of each matrix for each square that its weights move, and `beside` all else
    that they are made with. All but the matrices is as it will be stored afterwards. Raises ModelError where no matrix can be."""
    matrices = {name: each.weight for name, each in matrices_in(weights).items() if storing.takes(each.weight)}
    if not matrices:
        raise ModelError(
            f"No matrix of this model has rows of whole blocks, so none can be rounded in {storing.form}. Write "
            "`into: compressed-tensors`."
        )
    units = {name: unit for unit, each in units_in(weights).items() for name in each if name in matrices}
    parts: dict[str, list[Tensor]] = {}
    for name, unit in units.items():
        parts.setdefault(unit, []).append(matrices[name])
    options = {
        unit: [
            Option(kind, sum(storing.bytes(each, kind) for each in of), losses[unit] * moved(of, grid))
            for kind, grid in storing.grids.items()
        ]
        for unit, of in parts.items()
    }
    rest = storing.rest(weights, matrices)
    return Mixtures(storing=storing, options=options, units=units, rest=rest, dense=dense, **beside)


@dataclass(frozen=True)
class Found:
    """The mixture of a format after n steps."""

    of: Mixtures
    n: int

    @property
    def share(self) -> float:
        return self.of.share(self.n)

    @property
    def lost(self) -> Lost:
        return self.of.known[self.n]


def closest(formats: Sequence[Mixtures], share: float) -> Found:
    """The mixture of so many bytes, as a share of the model's, that loses least. Raises ModelError where none is so small."""
    found = [Found(each, n) for each in formats if (n := each.first_below(share)) is not None]
    if not found:
        raise ModelError(_too_small(formats))
    for each in found:
        each.of.measure(each.n)
    return min(found, key=lambda each: each.lost.kl)


def smallest(formats: Sequence[Mixtures], share: float | None, tries: int) -> Found:
    """The smallest mixture within the limits, of `tries` in each format, and of so many bytes at most where a share of the
    model's is said. Raises ModelError where there is none, which tells the closest."""
    best: Found | None = None
    for each in formats:
        most = best.share if best else share
        n = sought(each, most, tries)
        if n is not None and (best is None or each.share(n) < best.share):
            best = Found(each, n)
    if best is None:
        raise ModelError(_none_within(formats, share, tries))
    return best


def sought(of: Mixtures, share: float | None, tries: int) -> int | None:
    """The most steps within the limits, no fewer than a share of the bytes asks for; None where there are none."""
    least = of.first_below(share) if share is not None else 0
    if least is None:
        smallest_share = of.share(len(of.taken))
        of.job.note(f"{of.storing.form} is not tried: its smallest mixture has {smallest_share:.1%} of the bytes")
        return None
    first = least if share is not None else None
    return seek(of.measure, of.predicted(), of.limits.kl, tries, low=least - 1, first=first)


def seek(
    measure: Callable[[int], Lost],
    predicted: Sequence[float],
    limit: float | None,
    tries: int,
    low: int = -1,
    first: int | None = None,
) -> int | None:
    """The most steps, more than `low`, that are within the limits, in so many `tries`; None if none was. `predicted[n]` is the
    divergence that n steps should have; how far a measured one is from it says which n to try next, unless it is refusals that
    stand in the way: then, or without a `limit` to the divergence, the middle is next. It begins with `first`."""
    begun, high, by_middle = low, len(predicted), limit is None
    n = first if first is not None else _next(predicted, limit, 1.0, low, high)
    for _ in range(tries):
        lost = measure(n)
        low, high = (n, high) if lost.within else (low, n)
        if high - low <= 1:
            break
        by_middle = by_middle or (not lost.within and limit is not None and lost.kl <= limit)
        off = lost.kl / predicted[n] if lost.kl > 0 and predicted[n] > 0 else 1.0
        n = _next(predicted, None if by_middle else limit, off, low, high)
    return low if low > begun else None


def _next(predicted: Sequence[float], limit: float | None, off: float, low: int, high: int) -> int:
    if limit is None:
        return (low + high) // 2
    last = max((n for n, loss in enumerate(predicted) if loss * off <= limit), default=0)
    return min(max(last, low + 1), high - 1)


def _larger(of: Mixtures, share: float, tries: int) -> Found | None:
    """A mixture within the limits that is larger than a share of the bytes."""
    most = of.first_below(share)
    n = seek(of.measure, of.predicted()[:most], of.limits.kl, tries)
    return None if n is None else Found(of, n)


def _too_small(formats: Sequence[Mixtures]) -> str:
    of = min(formats, key=lambda each: each.share(len(each.taken)))
    least = of.share(len(of.taken))
    return (
        f"The smallest mixture has {least:.1%} of the bytes, {of.rest / of.dense:.1%} of them in embeddings, norms and "
        f"head, which are not rounded. Write `within: {{bytes: {least + 0.0005:.1%}}}` or more, or allow fewer `bits`."
    )


def _none_within(formats: Sequence[Mixtures], share: float | None, tries: int) -> str:
    """Why nothing is within the limits, and what was closest."""
    tried = [Found(each, n) for each in formats for n in each.known]
    if not tried:
        return _too_small(formats)
    best = min(tried, key=lambda each: (each.lost.flips is None, each.lost.flips or 0, each.lost.kl))
    limits = best.of.limits
    loosest = "a larger `kl`" if best.lost.flips is None else "larger `refusal_flips`"
    near = f"loses as little as {limits}; the closest loses {best.lost}"
    if share is None:
        return f"No mixture that was tried {near}. Write {loosest}, allow 8 `bits`, or smaller groups."
    larger = [found for each in formats if (found := _larger(each, share, tries))]
    if not larger:
        return f"No mixture of {share:.1%} of the bytes {near}, and none larger that was tried does. Write {loosest}."
    least = min(each.share for each in larger)
    return (
        f"No mixture of {share:.1%} of the bytes {near}. The smallest found that does has {least:.1%}: write "
        f"`bytes: {least + 0.0005:.1%}` or more, or {loosest}."
    )
