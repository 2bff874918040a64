"""GGUF: one file that llama.cpp, Ollama and LM Studio run (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

    q4_0, q5_0, q8_0   w = d (q - z),  d and q for each 32 weights of a row        q4_1, q5_1   w = d q + m
    q4_k, q5_k, q6_k   w = d s q - e m,  d and e for each 256, whole numbers s and m for each 32, or 16
    q4_k_m, iq3_s, …   a type for each matrix by its role, as llama.cpp itself chooses and rounds: this needs the package

Stock files round every weight to nearest; where there is `data`, k- and i-quants are most careful with columns whose inputs are
large. `solver: gptq` rounds to the same numbers so that what each layer computes changes least (Frantar et al. 2022, arXiv
2210.17323), at the same bytes and for the same programs.

Vectors stay in fp32, embeddings and head in eight bits. Tensors go through one table of architectures, the tokenizer is
found by its rules and compared on texts, and every file is read back and asked before it is called good.
"""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from posttrain.engine.block_solving import solved_blocks
from posttrain.engine.calibrating import Calibrated, calibration
from posttrain.engine.files import copy_model
from posttrain.engine.gguf_folder import Asked, is_asked, parity, read_back, told, vocab_noted
from posttrain.engine.gguf_writing import Writer
from posttrain.engine.importance import importance
from posttrain.engine.job import Job
from posttrain.engine.layerwise import Told, tell_fallbacks, write_report
from posttrain.engine.method import Made, Transform
from posttrain.engine.solving import Solved
from posttrain.functional.ggml_super_blocks import SUPER_GRIDS
from posttrain.models import llama_cpp
from posttrain.models.drawn import drawn_logits
from posttrain.models.gguf_families import family_of
from posttrain.models.gguf_file import Blocks, gguf_package
from posttrain.models.gguf_types import (
    BLENDS,
    NEED_DATA,
    SOLVABLE,
    GgufType,
    TensorType,
    is_solvable,
    refuse_by_name_alone,
)
from posttrain.models.load import load_weights
from posttrain.schema.artifacts import Model
from posttrain.schema.settings import DatasetRef


def _each_once(types: tuple[GgufType, ...]) -> tuple[GgufType, ...]:
    if not types:
        raise ValueError("no type is named: write at least one")
    if len(set(types)) < len(types):
        raise ValueError("a type stands there twice: name each once")
    return types


class GGUF(Calibrated, Solved, Transform):
    """Write a dense model as files for llama.cpp."""

    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[str]] = frozenset({"dense"})

    types: Annotated[tuple[GgufType, ...], AfterValidator(_each_once)] = Field(("q8_0",))
    """The types to write, one file each; measured is the smallest file."""
    embedding: TensorType | None = None
    """The type of embeddings and head: q8_0 if not given, and that of the rest where it is no type in blocks."""
    solver: Literal["stock", "gptq"] = "stock"
    """How types in blocks are rounded: each weight to nearest as llama.cpp does, or by GPTQ from what `data` makes the layers
    read; blends such as q4_k_m are llama.cpp's own either way."""
    data: DatasetRef = ()
    """Conversations or texts like those that the model will meet, never those that it is tested on: what `solver: gptq` solves
    for, and what tells k- and i-quants which columns matter."""
    compare: Asked = "auto"
    """Whether llama.cpp itself is asked, which needs room for the model in fp32 again: where it is installed, always, or
    never."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "GGUF":
        careful = [kind for kind in self.types if kind in NEED_DATA]
        if careful and not self.data:
            raise ValueError(f"`{careful[0]}` is rounded by how much columns matter: give `data`, or write q2_k")
        if self.solver == "gptq" and not self.data:
            raise ValueError("`solver: gptq` looks at rows: give `data`, or leave `solver` out")
        if self.solver == "gptq" and not set(self.types) & set(SOLVABLE):
            raise ValueError(
                f"`solver: gptq` solves types in blocks alone: add one of {', '.join(SOLVABLE)} to `types`"
            )
        looks = {"data", "sequences", "length"}
        idle = {*Solved.model_fields} | (looks if not self.data or not self._weighs() else set())
        found = sorted(idle & self.model_fields_set)
        if self.solver == "stock" and found:
            raise ValueError(f"`{found[0]}` does nothing to `solver: stock`: add `solver: gptq`, or leave it out")
        return self

    def _weighs(self) -> bool:
        """Whether a type is rounded more carefully where columns matter."""
        return bool(set(self.types) & {*BLENDS, *(SUPER_GRIDS if self.solver == "stock" else ())})

    def makes_form(self, form: str) -> str:
        return "gguf"

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        gguf_package("`gguf`")
        blends = [kind for kind in self.types if kind in BLENDS]
        if blends or self.compare == "always":
            llama_cpp.require(f"`{blends[0]}`" if blends else "`compare: always`")
        weights: Any = load_weights(model, at=torch.device("cpu"))  # exact, and the same on every machine
        family = family_of(weights.config)
        vocab = vocab_noted(job, model, weights)
        writer = Writer(job, weights, vocab, self.embedding)
        for kind in self.types:
            refuse_by_name_alone((shape[-1] for shape in writer.shapes().values()), kind)
        ids = calibration(self, model, inputs["data"], job) if self.data else None
        solved = self._solved(job, model, ids)
        if ids is not None and self._weighs():
            writer = replace(writer, matters=importance(job, weights, ids))
        asked = is_asked(job, self.compare)
        with writer.exact(wanted=asked or bool(blends)) as exact:
            files = {
                f"model-{kind.upper()}.gguf": writer.write(kind, exact, solved.get(kind, {})) for kind in self.types
            }
            copy_model(model, job.folder, weights=False)
            verified = {
                "verified": "tokenizer rules, read back",
                **(parity(job, model, weights, vocab, exact) if asked else {}),
            }
        before = drawn_logits(weights)
        differences = {
            kind: read_back(job.folder / f"model-{kind.upper()}.gguf", kind, weights, before) for kind in self.types
        }
        facts = {"architecture": family.arch, "tokenizer": told(vocab), "files": files, "difference": differences}
        return Made(facts | verified, "gguf")

    def _solved(self, job: Job, model: Model, ids: Tensor | None) -> dict[str, Mapping[str, Blocks]]:
        """The matrices of each type in blocks, where they are solved, and a file that says what became of them."""
        if self.solver == "stock" or ids is None:
            return {}
        solved: dict[str, Mapping[str, Blocks]] = {}
        report: dict[str, list[Told]] = {}
        for kind in (each for each in self.types if is_solvable(each)):
            solved[kind], report[kind] = solved_blocks(job, model, ids, kind, self)
            tell_fallbacks(job, report[kind])
            if solved_ones := [each for each in report[kind] if not each.fallback]:
                error, before = (fmean(getattr(each, name) for each in solved_ones) for name in ("error", "nearest"))
                job.note(
                    f"{kind}: the layers' outputs change by {error:.2g} of what they are, {before:.2g} if rounded to nearest"
                )
        write_report(job.folder, report)
        return solved
