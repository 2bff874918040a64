"""The smallest model within a budget of quality, or the closest one within a budget of bytes: each matrix gets its own bits.

    min  sum of bytes(b_i)    so that  KL(model || compressed) <= kl         or the other way round

What each matrix alone costs is measured; the losses nearly add up, so the best order of steps down is known, and whole mixtures are
solved by GPTQ (Frantar et al. 2022, arXiv 2210.17323) and measured until one is within (`engine/budgeting.py`). The divergence is that
on texts put aside, which no matrix was solved with.
"""

from collections import Counter
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from posttrain.engine.budgeting import Mixtures, within_bytes, within_loss
from posttrain.engine.calibrating import Calibrated, calibration
from posttrain.engine.job import Job
from posttrain.engine.method import Made
from posttrain.engine.quantising import DTYPES, Bits, Packing, require_whole_groups
from posttrain.engine.sensitivity import Aside, sensitivities
from posttrain.functional.rounding import Integers
from posttrain.models.matrices import decoder, matrices_in, units_in
from posttrain.schema.artifacts import Model
from posttrain.schema.settings import Settings


def _as_share(value: Any) -> Any:
    """`40%` is what recipes say."""
    if isinstance(value, str) and value.endswith("%"):
        return float(value.removesuffix("%")) / 100
    return value


class Within(Settings):
    """The budget: one of the two."""

    kl: float | None = Field(None, gt=0)
    """Most divergence from the model, in nats a token, on texts that are put aside: the smallest model within is sought."""
    bytes: Annotated[float | None, BeforeValidator(_as_share)] = Field(None, gt=0, lt=1)
    """Most bytes, as a share of the model's own in `dtype`, such as `40%`: the closest model within is sought."""

    @model_validator(mode="after")
    def _is_one(self) -> "Within":
        if (self.kl is None) == (self.bytes is None):
            raise ValueError("a budget is either of quality or of bytes: write `{kl: 0.01}` or `{bytes: 40%}`")
        return self


class Compress(Calibrated, Packing):
    """Find the smallest model that loses no more than it may, or the closest one of a size."""

    within: Within
    """What it may lose, as `{kl: 0.01}`, or how large it may be, as `{bytes: 40%}`."""
    bits: tuple[Bits, ...] = Field((8, 4, 3, 2), min_length=2)
    """What a matrix may get."""
    aside: int = Field(16, ge=1)
    """Texts that are put aside, beside those that are looked at, to measure what was lost."""
    tries: int = Field(5, ge=1)
    """How many mixtures are solved at most, for a budget of quality."""
    correct: float = Field(0.5, ge=0, le=1)
    """How much of what rounding lost before a matrix it makes up for."""

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        weights = decoder(model, "compressed")
        mixtures, dense = self._mixtures(job, model, weights, inputs)
        if self.within.kl is None:
            assert self.within.bytes is not None
            n = within_bytes(mixtures, self.within.bytes, dense)
        else:
            n = within_loss(mixtures, self.within.kl, self.tries)
        made = self.write(job, model, weights, mixtures.of(n), *mixtures.solved[n])
        tried = [
            {"share_of_bytes": (mixtures.others + mixtures.bytes(k)) / dense, "kl": kl}
            for k, kl in sorted(mixtures.known.items())
        ]
        counts = Counter(mixtures.bits(n).values())
        facts = {"matrices_of_bits": dict(sorted(counts.items())), "kl": mixtures.known[n], "tried": tried}
        return replace(made, facts={**made.facts, **facts})

    def _mixtures(self, job: Job, model: Model, weights: Any, inputs: Any) -> tuple[Mixtures, float]:
        """All mixtures of bits, and the bytes of the model as it is, in `dtype`."""
        grids: dict[int, Integers] = {bits: self.grid(bits) for bits in sorted(set(self.bits), reverse=True)}
        matrices = matrices_in(weights)
        require_whole_groups(matrices, {name: grids[max(grids)] for name in matrices})
        ids = calibration(self, model, inputs["data"], job, more=self.aside)
        aside = Aside.of(weights, ids[self.sequences :])
        n_weights = sum(matrix.weight.numel() for matrix in matrices.values())
        dense = sum(p.numel() for p in weights.parameters()) * DTYPES[self.dtype].itemsize
        others = dense - n_weights * DTYPES[self.dtype].itemsize
        options = sensitivities(weights, aside, grids, job)
        looked_at = ids[: self.sequences]
        names = {name: unit for unit, each in units_in(weights).items() for name in each}
        return Mixtures(model, looked_at, aside, options, names, grids, self.correct, others, n_weights, job), dense
