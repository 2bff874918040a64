"""The smallest model within a budget of quality, or the closest one within a budget of bytes: each matrix gets its own bits.

    min  sum of bytes(b_i)    so that  KL(model || compressed) <= kl    and  refusals that come or go <= refusal_flips

What each matrix alone costs is measured; the losses nearly add up, so the best order of steps down is known, and whole mixtures are
solved by GPTQ (Frantar et al. 2022, arXiv 2210.17323) and measured until one is within (`engine/budgeting.py`). The divergence is that
at the answers of conversations, or at every token of texts, put aside: no matrix was solved with them. Where a format is not said
for sure, each is sought through, and the smallest model of all is written.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from posttrain.data.read import read
from posttrain.engine.budgeting import Found, Mixtures, closest, mixtures_in, smallest
from posttrain.engine.calibrating import Calibrated, calibration_and_aside
from posttrain.engine.gguf_folder import written
from posttrain.engine.job import Job
from posttrain.engine.losing import Asked, Limits, Lost
from posttrain.engine.method import EITHER, Made
from posttrain.engine.quantising import DTYPES, Bits, Packing, require_whole_groups
from posttrain.engine.sensitivity import Aside, sensitivities
from posttrain.engine.solving import Solved
from posttrain.engine.storing import InBlocks, InIntegers, Storing
from posttrain.functional.ggml_grids import BlockGrid
from posttrain.models.gguf_file import gguf_package
from posttrain.models.load import load_format, load_tokenizer
from posttrain.models.matrices import decoder, matrices_in
from posttrain.models.packed import METHOD
from posttrain.models.precision import device
from posttrain.schema.artifacts import Model
from posttrain.schema.rows import Prompt
from posttrain.schema.settings import DatasetRef, Settings, as_share

Format = Literal["compressed-tensors", "gguf"]
BlockType = Literal["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
BLOCK_TYPES: tuple[BlockType, ...] = get_args(BlockType)  # from the largest on


def _as_formats(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Share = Annotated[float | None, BeforeValidator(as_share)]


class Within(Settings):
    """The budget: at least one limit; all that are given must hold."""

    kl: float | None = Field(None, gt=0)
    """Most divergence from the model, in nats a token, on rows that are put aside: at the tokens of answers, or of texts."""
    refusal_flips: Share = Field(None, ge=0, lt=1)
    """Most prompts of `asked` that are declined and were not, or the other way round, as a share such as `1%`."""
    asked: DatasetRef = ()
    """With `refusal_flips`, the prompts that the model and each candidate answer greedily, some harmful and some harmless."""
    max_new_tokens: int = Field(64, ge=1)
    """With `refusal_flips`, the longest answer, in tokens: how it begins tells whether it declines."""
    bytes: Share = Field(None, gt=0, lt=1)
    """Most bytes, as a share of the model's own in `dtype`, such as `40%`; alone, the closest model within is sought, else the
    smallest that is within all limits."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Within":
        if self.kl is None and self.bytes is None and self.refusal_flips is None:
            raise ValueError(
                "a budget limits what is lost, or bytes: write `{kl: 0.01}`, `{refusal_flips: 1%}`, `{bytes: 40%}` or several"
            )
        if self.refusal_flips is not None and not self.asked:
            raise ValueError("`refusal_flips` needs prompts to ask: add `asked: …`, some harmful and some harmless")
        if self.refusal_flips is None and (idle := {"asked", "max_new_tokens"} & self.model_fields_set):
            raise ValueError(f"`{min(idle)}` does nothing without a limit: add `refusal_flips: 1%`, or leave it out")
        return self

    @property
    def is_of_bytes_alone(self) -> bool:
        return self.kl is None and self.refusal_flips is None


class Compress(Calibrated, Solved, Packing):
    """Find the smallest model that loses no more than it may, or the closest one of a size."""

    version: ClassVar[int] = 2

    within: Within
    """What it may lose, as `{kl: 0.01, refusal_flips: 1%}`, how large it may be, as `{bytes: 40%}`, or both."""
    into: Annotated[tuple[Format, ...], BeforeValidator(_as_formats)] = Field(("compressed-tensors",), min_length=1)
    """The format, or several to find the smallest model of: `compressed-tensors`, `gguf`, or `[compressed-tensors, gguf]`."""
    bits: tuple[Bits, ...] = Field((8, 4, 3, 2), min_length=2)
    """What a matrix may get as compressed-tensors."""
    types: tuple[BlockType, ...] = Field(BLOCK_TYPES, min_length=2)
    """What a matrix may get in a GGUF file."""
    aside: int = Field(16, ge=1)
    """How many texts' worth of rows is put aside, beside those that are looked at, to measure what was lost."""
    tries: int = Field(5, ge=1)
    """How many mixtures of a format are solved at most, for a budget of quality."""

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> "Compress":
        said = self.model_fields_set
        if "gguf" not in self.into and "types" in said:
            raise ValueError("`types` are those of GGUF files: add `into: gguf`, or leave them out")
        if METHOD not in self.into and (idle := {"bits", "group", "symmetric"} & said):
            raise ValueError(
                f"`{min(idle)}` says nothing of GGUF files: write `types`, or add `into: [{METHOD}, gguf]`"
            )
        if len(set(self.into)) < len(self.into):
            raise ValueError("`into` names a format twice: name each once")
        return self

    def makes_form(self, form: str) -> str:
        return EITHER.join(self.into)

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        if "gguf" in self.into:
            gguf_package("`into: gguf`")
        formats = self._formats(job, model, inputs)
        if self.within.is_of_bytes_alone:
            assert self.within.bytes is not None
            found = closest(formats, self.within.bytes)
        else:
            found = smallest(formats, self.within.bytes, self.tries)
        made = self._written(job, model, found)
        return replace(made, facts={**made.facts, **_facts(found, formats)})

    def _storing(self, form: Format) -> Storing:
        """How a format stores matrices."""
        if form == "gguf":
            return InBlocks({kind: BlockGrid(kind) for kind in BLOCK_TYPES if kind in self.types})
        return InIntegers({bits: self.grid(bits) for bits in sorted(set(self.bits), reverse=True)}, DTYPES[self.dtype])

    def _formats(self, job: Job, model: Model, inputs: dict[str, Any]) -> list[Mixtures]:
        """All mixtures in each format, with what single matrices lose."""
        weights, tokenizer = decoder(model, "compressed").to(device()), load_tokenizer(model)
        if METHOD in self.into:
            matrices = matrices_in(weights)
            require_whole_groups(matrices, dict.fromkeys(matrices, self.grid(self.bits[0])))
        ids, trees = calibration_and_aside(self, model, inputs["data"], job, self.aside)
        aside = Aside.of(weights, tokenizer, trees)
        job.note(f"what is lost is measured at {aside.n_tokens} tokens that {len(trees)} rows put aside teach")
        dense = sum(p.numel() for p in weights.parameters()) * DTYPES[self.dtype].itemsize
        limits = self._limits(job, model, weights, aside, inputs)
        ways = [self._storing(form) for form in self.into]
        losses = sensitivities(weights, aside, ways[0].probe, job)
        beside = {"model": model, "ids": ids, "limits": limits, "how": self, "job": job}
        return [mixtures_in(way, decoder(model, "compressed"), losses, dense, **beside) for way in ways]

    def _limits(self, job: Job, model: Model, weights: Any, aside: Aside, inputs: dict[str, Any]) -> Limits:
        if self.within.refusal_flips is None:
            return Limits(aside, self.within.kl)
        rows = [row for dataset in inputs["within.asked"] for row in read(dataset, Prompt).rows]
        asked = Asked(rows, load_format(model, load_tokenizer(model)), self.within.max_new_tokens, job)
        refused = asked.refusals(weights)
        job.note(f"the model itself declines {sum(refused)} of {len(rows)} prompts")
        return Limits(aside, self.within.kl, self.within.refusal_flips, asked, refused)

    def _written(self, job: Job, model: Model, found: Found) -> Made:
        """The artifact of a mixture, in its format."""
        weights, grids, solved = decoder(model, "compressed"), found.of.grids(found.n), found.of.solved[found.n]
        if found.of.storing.form == METHOD:
            return self.write(job, model, weights, grids, *solved)  # type: ignore[arg-type]
        return written(job, model, weights, found.of.kinds(found.n), *solved)


def _facts(found: Found, formats: Sequence[Mixtures]) -> dict[str, Any]:
    """How many matrices became what, what that lost, and all that was tried."""
    counts = Counter(found.of.kinds(found.n).values())
    tried = [
        {"form": each.storing.form, "share_of_bytes": each.share(n), **_lost(lost)}
        for each in formats
        for n, lost in sorted(each.known.items())
    ]
    unit = "bits" if found.of.storing.form == METHOD else "types"
    limits = found.of.limits
    measured = {"tokens": limits.aside.n_tokens, **({"prompts": len(limits.refused)} if limits.refused else {})}
    return {
        f"matrices_of_{unit}": dict(sorted(counts.items())),
        **_lost(found.lost),
        "measured": measured,
        "tried": tried,
    }


def _lost(lost: Lost) -> dict[str, float]:
    return {"kl": lost.kl} | ({"refusal_flips": lost.flips} if lost.flips is not None else {})
