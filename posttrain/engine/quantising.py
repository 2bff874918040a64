"""Quantisation as a stage: which matrices become integers, of how many bits, and what is written of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from statistics import fmean
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from posttrain.functional.rounding import Integers, Rounded
from posttrain.models import gptq_layout
from posttrain.models.expert_names import not_read_by_transformers, patterns_of, with_parts_called
from posttrain.models.experts import experts_in
from posttrain.models.load import load_tokenizer, save_weights
from posttrain.models.matrices import matrices_in
from posttrain.models.packed import FORMAT, METHOD, WITH_INPUTS, belongs, configuration, packed_state
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import UsageError
from posttrain.schema.settings import Settings

from .job import Job
from .layerwise import Parts, Told, tell_what_is_left, write_report
from .method import Made, Transform

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Bits = Literal[2, 3, 4, 8]


class Override(Settings):
    """How some matrices are treated apart from the others; what is not said is as for all."""

    bits: Bits | None = None
    """Bits of each of their weights."""
    group: int | None = Field(None, ge=1)
    """Columns that share a scale."""
    keep: bool = False
    """Leave them as they are."""

    @model_validator(mode="after")
    def _says_something(self) -> "Override":
        if self.keep == (self.bits is not None or self.group is not None):
            raise ValueError("write either `keep: true` or how they are rounded, as `{bits: 8}`")
        return self


class Packing(Transform):
    """What every method can be told that writes matrices as integers."""

    accepts: ClassVar[frozenset[str]] = frozenset({"dense"})

    group: int | None = Field(128, ge=1)
    """Columns of a matrix that share a scale, which must divide all of them; `null` gives a whole row one scale. Smaller
    groups are closer to the model and cost 16 bits each."""
    symmetric: bool = True
    """Round to numbers around zero. Other programs load these everywhere; asymmetric ones are closer and load in fewer."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """How scales, and all that is not rounded, such as embeddings, are stored."""

    def makes_form(self, form: str) -> str:
        return METHOD

    def stored_as(self) -> str:
        """The format of matrices on the disk."""
        return FORMAT

    def grid(self, bits: int, group: int | None = None) -> Integers:
        """What weights of so many bits may become."""
        return Integers(bits, group or self.group, self.symmetric, DTYPES[self.dtype])

    def write(
        self, job: Job, model: Model, weights: Any, grids: Mapping[str, Integers], parts: Parts, told: Sequence[Told]
    ) -> Made:
        """The artifact: matrices as integers, all else as it is, and what became of each matrix."""
        packed = {name: (Rounded(*parts[name]), grid) for name, grid in grids.items()}
        left = [name for name, m in weights.named_modules() if isinstance(m, nn.Linear) and name not in packed]
        others = tell_what_is_left(job, weights, told)
        modules = [name.removesuffix(".weight") for name in others if name.endswith(".weight")]
        weights.config.quantization_config = configuration(
            packed, left + modules, self.stored_as(), lambda names: patterns_of(weights, names)
        )
        state = packed_state(weights.to(DTYPES[self.dtype]).state_dict(), packed, self.stored_as())
        facts = _facts(state, packed, left + others, told) | _read_by(job, weights, grids)
        state = with_parts_called(weights, state)
        save_weights(weights, load_tokenizer(model), job.folder, source=model, state=state)
        write_report(job.folder, told)
        return Made(facts, self.makes_form("dense"))


class Quantising(Packing):
    """What every method can be told that rounds all matrices alike."""

    bits: Bits = 4
    """Bits of each weight; fewer are smaller and further from the model."""
    overrides: dict[str, Override] = Field(default_factory=dict)
    """Matrices that are treated otherwise, by patterns of their names, as `{"*.down_proj": {bits: 8}}`; the first that fits
    counts."""
    activations: Literal[8] | None = None
    """Bits that the inputs of matrices are rounded to while the model computes, each token with one scale; `bits` are then 8 and
    `group` is `null` (W8A8)."""
    layout: Literal["compressed-tensors", "gptq"] = "compressed-tensors"
    """How integers are stored; `gptq` is the layout of GPTQ's own tools, for programs that read no other. Its scales, and then
    all that is not rounded, are float16."""

    @model_validator(mode="before")
    @classmethod
    def _as_they_must_be(cls, said: Any) -> Any:
        """Options that follow from others need not be said."""
        if isinstance(said, dict) and said.get("activations"):
            said = {"bits": 8, "group": None} | said
        if isinstance(said, dict) and said.get("layout") == gptq_layout.METHOD:
            said = {"dtype": "float16"} | said
        return said

    @model_validator(mode="after")
    def _fit_together(self) -> "Quantising":
        rounds = any(not override.keep for override in self.overrides.values())
        if self.activations and (self.bits != 8 or self.group or not self.symmetric or rounds):
            raise ValueError(
                "programs that round activations want weights of 8 bits around zero with one scale for each row: leave out `bits`, "
                "`group` and `symmetric`, and let `overrides` only `keep` matrices"
            )
        if self.layout == gptq_layout.METHOD and (self.activations or self.overrides or self.dtype != "float16"):
            raise ValueError(
                "`layout: gptq` holds all matrices of the layers, with scales of float16 and one number of bits for all, and "
                "inputs as they are: leave out `overrides`, `activations` and `dtype`, or `layout`"
            )
        return self

    def makes_form(self, form: str) -> str:
        return gptq_layout.METHOD if self.layout == gptq_layout.METHOD else METHOD

    def stored_as(self) -> str:
        return self.layout if self.layout == gptq_layout.METHOD else WITH_INPUTS if self.activations else FORMAT

    def grid(self, bits: int, group: int | None = None) -> Integers:
        return replace(super().grid(bits, group), zero_above_low=self.layout == gptq_layout.METHOD)

    def write(self, job: Job, model: Model, weights: Any, *found: Any) -> Made:
        made = super().write(job, model, weights, *found)
        if self.layout == gptq_layout.METHOD:
            gptq_layout.note(job.folder, weights.config.quantization_config)
        return made

    def grids(self, weights: nn.Module) -> dict[str, Integers]:
        """What the weights of each matrix in the layers may become. Raises UsageError for a pattern that fits none, where none
        is left to round, and for groups that do not divide one; ModelError where there is no matrix."""
        matrices = matrices_in(weights)
        unused = [pattern for pattern in self.overrides if not any(fnmatchcase(name, pattern) for name in matrices)]
        if unused:
            raise UsageError(f"`overrides: {unused[0]}` fits no matrix. They are called {_some(list(matrices))}.")
        found = {name: grid for name in matrices if (grid := self._grid(name)) is not None}
        if not found:
            raise UsageError(
                "`overrides` keeps every matrix as it is, so nothing is rounded. Keep fewer, or drop the stage."
            )
        require_whole_groups(matrices, found)
        if experts_in(weights) and (self.activations or self.layout == gptq_layout.METHOD):
            raise UsageError(
                f"`{'activations' if self.activations else 'layout: gptq'}` is for models without experts, of which no program that reads "
                "it is known here. Leave it out, or take a dense model."
            )
        if self.layout == gptq_layout.METHOD:
            require_whole_words(matrices, self.bits)
        return found

    def _grid(self, name: str) -> Integers | None:
        override = next((how for pattern, how in self.overrides.items() if fnmatchcase(name, pattern)), None)
        if override is None:
            return self.grid(self.bits)
        return None if override.keep else self.grid(override.bits or self.bits, override.group)


def require_whole_groups(matrices: Mapping[str, nn.Linear], grids: Mapping[str, Integers]) -> None:
    """Raises UsageError for groups that do not divide the columns of a matrix, with the nearest that do."""
    uneven = [name for name, grid in grids.items() if matrices[name].in_features % (grid.group or 1)]
    if uneven:
        columns = matrices[uneven[0]].in_features
        group = grids[uneven[0]].group or columns
        fitting = [n for n in range(1, columns + 1) if columns % n == 0]
        below, above = max(n for n in fitting if n < group), min((n for n in fitting if n > group), default=columns)
        raise UsageError(
            f"Groups of {group} do not divide the {columns} columns of {uneven[0]}"
            + (f" and of {len(uneven) - 1} more matrices" if len(uneven) > 1 else "")
            + f". The nearest that do are {below} and {above}; `group: null` gives each row one scale."
        )


def require_whole_words(matrices: Mapping[str, nn.Linear], bits: int) -> None:
    """Raises UsageError for a matrix that GPTQ's layout cannot hold."""
    for name, matrix in matrices.items():
        rows, columns = matrix.weight.shape
        if not gptq_layout.fills_words(rows, columns, bits):
            raise UsageError(
                f"`layout: gptq` holds rows and columns that fill whole words of 32 bits, and {name} has {rows} rows of {columns}, "
                f"in {bits} bits each. Leave out `layout`, or take more `bits`."
            )


def _read_by(job: Job, weights: nn.Module, grids: Mapping[str, Integers]) -> dict[str, Any]:
    """Who reads the experts of a mixture; nothing where there are none."""
    if not experts_in(weights):
        return {}
    why = not_read_by_transformers(weights, grids)
    if why:
        job.note(
            f"These experts are read here, and have the names that vLLM wants; transformers 5.23 does not read them: {why}"
        )
    return {"experts": {"read_by": ["posttrain"] + ([] if why else ["transformers"]), "names": "vLLM's"}}


def _facts(
    state: Mapping[str, Tensor], packed: Mapping[str, Any], left: Sequence[str], told: Sequence[Told]
) -> dict[str, Any]:
    n_weights = sum(rounded.ints.numel() for rounded, _ in packed.values())
    n_bytes = sum(x.nbytes for name, x in state.items() if belongs(name, packed))
    facts = {
        "matrices": len(packed),
        "rounded": list(packed),
        "left": list(left),
        "bits_per_weight": 8 * n_bytes / n_weights,
    }
    solved = [each for each in told if not each.fallback]
    if solved:
        facts |= {"error": fmean(t.error for t in solved), "error_nearest": fmean(t.nearest for t in solved)}
    return facts | {"fallback": {each.name: each.fallback for each in told if each.fallback}}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
