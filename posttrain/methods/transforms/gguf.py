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

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from posttrain.data.ggml_match import compared_with, read_vocab
from posttrain.data.ggml_vocab import Vocab
from posttrain.data.template import turn_end, with_template
from posttrain.data.varied_texts import N_TEXTS
from posttrain.engine.block_solving import solved_blocks
from posttrain.engine.calibrating import Calibrated, calibration
from posttrain.engine.gguf_writing import Writer
from posttrain.engine.importance import importance
from posttrain.engine.job import Job
from posttrain.engine.layerwise import Told, write_report
from posttrain.engine.method import Made, Transform
from posttrain.functional.ggml_super_blocks import SUPER_GRIDS
from posttrain.models import llama_cpp
from posttrain.models.drawn import difference, drawn_logits
from posttrain.models.gguf_families import family_of
from posttrain.models.gguf_file import Blocks, gguf_package, weights_of
from posttrain.models.gguf_types import (
    BLENDS,
    NEED_DATA,
    SOLVABLE,
    GgufType,
    TensorType,
    is_solvable,
    refuse_by_name_alone,
)
from posttrain.models.load import load_tokenizer, load_weights
from posttrain.models.vocabulary import n_rows
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError
from posttrain.schema.settings import DatasetRef

WEIGHTS = (".safetensors", ".bin", ".index.json", ".gguf")
FARTHEST = {"f32": 1e-9, "f16": 1e-3, "bf16": 1e-2, "q8_0": 1e-2}  # mean KL in nats: more is no rounding but a mistake


def _each_once(types: tuple[GgufType, ...]) -> tuple[GgufType, ...]:
    if not types:
        raise ValueError("no type is named: write at least one")
    if len(set(types)) < len(types):
        raise ValueError("a type stands there twice: name each once")
    return types


class GGUF(Calibrated, Transform):
    """Write a dense model as files for llama.cpp."""

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
    correct: float = Field(0.5, ge=0, le=1)
    """With `solver: gptq`, how much of what rounding lost before a matrix it makes up for."""
    compare: Literal["auto", "always", "never"] = "auto"
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
        idle = {"correct"} | (looks if not self.data or not self._weighs() else set())
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
        vocab = read_vocab(Path(model.path), n_rows(weights), _turn(model))
        for note in (*vocab.notes, *_read_otherwise(model)):
            job.note(note)
        writer = Writer(job, weights, vocab, self.embedding)
        for kind in self.types:
            refuse_by_name_alone((shape[-1] for shape in writer.shapes().values()), kind)
        ids = calibration(self, model, inputs["data"], job) if self.data else None
        solved = self._solved(job, model, ids)
        if ids is not None and self._weighs():
            writer = replace(writer, matters=importance(job, weights, ids))
        asked = self._asked(job)
        with writer.exact(wanted=asked or bool(blends)) as exact:
            files = {
                f"model-{kind.upper()}.gguf": writer.write(kind, exact, solved.get(kind, {})) for kind in self.types
            }
            _beside(model, job.folder)
            verified = {
                "verified": "tokenizer rules, read back",
                **(_parity(job, model, writer, exact) if asked else {}),
            }
        differences = _read_back(job.folder, self.types, weights)
        facts = {"architecture": family.arch, "tokenizer": _told(vocab), "files": files, "difference": differences}
        return Made(facts | verified, "gguf")

    def _solved(self, job: Job, model: Model, ids: Tensor | None) -> dict[str, Mapping[str, Blocks]]:
        """The matrices of each type in blocks, where they are solved, and a file that says what became of them."""
        if self.solver == "stock" or ids is None:
            return {}
        solved: dict[str, Mapping[str, Blocks]] = {}
        report: dict[str, list[Told]] = {}
        for kind in (each for each in self.types if is_solvable(each)):
            solved[kind], report[kind] = solved_blocks(job, model, ids, kind, self.correct)
            told = [each for each in report[kind] if not each.fallback]
            error, before = (fmean(getattr(each, name) for each in told) for name in ("error", "nearest"))
            job.note(
                f"{kind}: the layers' outputs change by {error:.2g} of what they are, {before:.2g} if rounded to nearest"
            )
        write_report(job.folder, report)
        return solved

    def _asked(self, job: Job) -> bool:
        """Whether llama.cpp is asked what it says to the file in fp32."""
        if self.compare == "auto" and not llama_cpp.installed():
            job.note(
                "llama.cpp was not asked: after `pip install 'posttrain[llama]'` it compares the next file with its model"
            )
            return False
        return self.compare != "never"


def _parity(job: Job, model: Model, writer: Writer, exact: Path) -> dict[str, Any]:
    """What llama.cpp itself found. Raises ModelError where it differs."""
    found = llama_cpp.compare(exact, Path(model.path), writer.weights, writer.vocab)
    job.note(f"llama.cpp agrees: {found['texts']} texts, logits within {found['logits_largest']:.1e}")
    return {"verified": "llama.cpp", "parity": found}


def _turn(model: Model) -> str | None:
    """The token that ends a turn in this model's chats."""
    return turn_end(with_template(load_tokenizer(model))).token


def _read_otherwise(model: Model) -> list[str]:
    """A word of warning where transformers reads texts otherwise than tokenizer.json, which the files follow."""
    differ = compared_with(Path(model.path), load_tokenizer(model))
    if not differ:
        return []
    return [
        f"transformers reads {len(differ)} of {N_TEXTS} texts otherwise than tokenizer.json says, such as {differ[0]!r}. The "
        "files follow tokenizer.json; what is measured here is of other tokens"
    ]


def _told(vocab: Vocab) -> dict[str, Any]:
    return {"model": vocab.model, "pre": vocab.pre, **vocab.checked, "notes": list(vocab.notes)}


def _beside(model: Model, folder: Path) -> None:
    """Configuration, tokenizer, template and prompt program, so that the folder can be loaded here as well."""
    for name in model.files:
        if not name.endswith((*WEIGHTS, "README.md")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model.path / name, folder / name)


def _read_back(folder: Path, types: Sequence[GgufType], weights: Any) -> dict[str, dict[str, float]]:
    """How far each file's model is from the one that was written. Raises ModelError where that is no rounding. The
    weights are those of the last file afterwards."""
    before = drawn_logits(weights)
    found: dict[str, dict[str, float]] = {}
    for kind in types:
        path = folder / f"model-{kind.upper()}.gguf"
        weights.load_state_dict(weights_of(path, weights.config), strict=False)
        found[kind] = difference(before, drawn_logits(weights))
        kl = found[kind]["kl"]
        if not kl <= FARTHEST.get(kind, float("inf")):
            raise ModelError(
                f"{path.name} read back is {kl:.1e} nats from the model, more than rounding to {kind} explains: it is not "
                "called good. Write `f32` to see whether the architecture is at fault, and tell it in an issue."
            )
    return found
