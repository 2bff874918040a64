"""GGUF: one file that llama.cpp, Ollama and LM Studio run (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

    q4_0, q5_0, q8_0   w = d (q - z),  d and q for each 32 weights of a row        q4_1, q5_1   w = d q + m

Stock files round every weight to nearest. `solver: gptq` rounds to the same numbers so that what each layer computes changes least
(Frantar et al. 2022, arXiv 2210.17323), at the same bytes and for the same programs.

Vectors stay in fp32, embeddings and head in eight bits. Tensors go through one table of architectures, the tokenizer is
found by its rules and compared on texts, and every file is read back and asked before it is called good.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, model_validator

from posttrain.data.ggml_vocab import Vocab
from posttrain.engine.block_solving import solved_blocks
from posttrain.engine.calibrating import Calibrated, calibration
from posttrain.engine.files import copy_beside, readable
from posttrain.engine.gguf_folder import Asked, parity, read_back, told, vocab_noted
from posttrain.engine.job import Job
from posttrain.engine.layerwise import write_report
from posttrain.engine.method import Made, Transform
from posttrain.engine.solving import Solved
from posttrain.functional.ggml_blocks import GRIDS
from posttrain.models import llama_cpp
from posttrain.models.drawn import drawn_logits
from posttrain.models.gguf_families import family_of
from posttrain.models.gguf_file import FALLBACK, Blocks, GgufType, gguf_package, write_gguf
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
    embedding: GgufType | None = None
    """The type of embeddings and head: q8_0 if not given, and that of the rest where it is no type in blocks."""
    solver: Literal["stock", "gptq"] = "stock"
    """How types in blocks are rounded: each weight to nearest as llama.cpp does, or by GPTQ from what `data` makes the layers
    read."""
    data: DatasetRef = ()
    """With `solver: gptq`, conversations or texts like those that the model will meet; never those that it is tested on."""
    compare: Asked = "auto"
    """Whether llama.cpp itself is asked, which needs room for the model in fp32 again: where it is installed, always, or
    never."""

    @model_validator(mode="after")
    def _solver_has_what_it_needs(self) -> "GGUF":
        if self.solver == "gptq" and not self.data:
            raise ValueError("`solver: gptq` looks at rows: give `data`, or leave `solver` out")
        if self.solver == "gptq" and not set(self.types) & set(GRIDS):
            raise ValueError(f"`solver: gptq` solves types in blocks alone: add one of {', '.join(GRIDS)} to `types`")
        idle = sorted({"data", "sequences", "length", *Solved.model_fields} & self.model_fields_set)
        if self.solver == "stock" and idle:
            raise ValueError(f"`{idle[0]}` does nothing to `solver: stock`: add `solver: gptq`, or leave it out")
        return self

    def makes_form(self, form: str) -> str:
        return "gguf"

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        gguf_package("`gguf`")
        if self.compare == "always":
            llama_cpp.require()
        weights: Any = load_weights(model, at=torch.device("cpu"))  # exact, and the same on every machine
        family = family_of(weights.config)
        vocab = vocab_noted(job, model, weights)
        files = self.write(job, weights, vocab, self._solved(job, model, inputs))
        copy_beside(model, job.folder)
        verified = {"verified": "tokenizer rules, read back", **parity(job, model, weights, vocab, self.compare)}
        before = drawn_logits(weights)
        differences = {kind: read_back(_file(job.folder, kind), kind, weights, before) for kind in self.types}
        facts = {"architecture": family.arch, "tokenizer": told(vocab), "files": files, "difference": differences}
        return Made(facts | verified, "gguf")

    def write(
        self, job: Job, weights: Any, vocab: Vocab, solved: Mapping[str, Mapping[str, Blocks]]
    ) -> dict[str, dict[str, Any]]:
        """Writes a file of each type and tells its size and what fell back. `solved` are matrices rounded already, by type."""
        found = {}
        for kind in self.types:
            path = _file(job.folder, kind)
            types = write_gguf(
                path, weights.state_dict(), weights.config, vocab, kind, self.embedding, solved.get(kind)
            )
            fallen = sorted(name for name, each in types.items() if each == FALLBACK != kind)
            if fallen:
                job.note(
                    f"{kind}: {len(fallen)} tensors have rows of no whole blocks and stay {FALLBACK}: {fallen[0]}, …"
                )
            size = path.stat().st_size
            job.note(f"{path.name}: {readable(size)}")
            found[path.name] = {"bytes": size, "fell_back": fallen}
        return found

    def _solved(self, job: Job, model: Model, inputs: Mapping[str, Any]) -> dict[str, Mapping[str, Blocks]]:
        """The matrices of each type in blocks, where they are solved, and a file that says what became of them."""
        if self.solver == "stock":
            return {}
        ids = calibration(self, model, inputs["data"], job)
        solved, report = {}, {}
        for kind in (each for each in self.types if each in GRIDS):
            solved[str(kind)], report[str(kind)] = solved_blocks(job, model, ids, kind, self)
            solved_ones = [each for each in report[str(kind)] if not each.fallback]
            error, before = (fmean(getattr(each, name) for each in solved_ones) for name in ("error", "nearest"))
            job.note(
                f"{kind}: the layers' outputs change by {error:.2g} of what they are, {before:.2g} if rounded to nearest"
            )
        write_report(job.folder, report)
        return solved


def _file(folder: Path, kind: GgufType) -> Path:
    return folder / f"model-{kind.upper()}.gguf"
