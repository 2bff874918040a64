"""GGUF: one file that llama.cpp, Ollama and LM Studio run (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

    q4_0, q5_0, q8_0   w = d (q - z),  d and q for each 32 weights of a row        q4_1, q5_1   w = d q + m

Stock files round every weight to nearest. `solver: gptq` rounds to the same numbers so that what each layer computes changes least
(Frantar et al. 2022, arXiv 2210.17323), at the same bytes and for the same programs.

Vectors stay in fp32, embeddings and head in eight bits. Tensors go through one table of architectures, the tokenizer is
found by its rules and compared on texts, and every file is read back and asked before it is called good.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, model_validator

from posttrain.data.ggml_match import compared_with, read_vocab
from posttrain.data.ggml_vocab import Vocab
from posttrain.data.template import turn_end, with_template
from posttrain.data.varied_texts import N_TEXTS
from posttrain.engine.block_solving import solved_blocks
from posttrain.engine.calibrating import Calibrated, calibration
from posttrain.engine.files import readable
from posttrain.engine.job import Job
from posttrain.engine.layerwise import tell_fallbacks, write_report
from posttrain.engine.method import Made, Transform
from posttrain.functional.ggml_blocks import GRIDS
from posttrain.models import llama_cpp
from posttrain.models.drawn import difference, drawn_logits
from posttrain.models.gguf_families import family_of
from posttrain.models.gguf_file import FALLBACK, Blocks, GgufType, gguf_package, weights_of, write_gguf
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
    embedding: GgufType | None = None
    """The type of embeddings and head: q8_0 if not given, and that of the rest where it is no type in blocks."""
    solver: Literal["stock", "gptq"] = "stock"
    """How types in blocks are rounded: each weight to nearest as llama.cpp does, or by GPTQ from what `data` makes the layers
    read."""
    data: DatasetRef = ()
    """With `solver: gptq`, conversations or texts like those that the model will meet; never those that it is tested on."""
    correct: float = Field(0.5, ge=0, le=1)
    """With `solver: gptq`, how much of what rounding lost before a matrix it makes up for."""
    compare: Literal["auto", "always", "never"] = "auto"
    """Whether llama.cpp itself is asked, which needs room for the model in fp32 again: where it is installed, always, or
    never."""

    @model_validator(mode="after")
    def _solver_has_what_it_needs(self) -> "GGUF":
        if self.solver == "gptq" and not self.data:
            raise ValueError("`solver: gptq` looks at rows: give `data`, or leave `solver` out")
        if self.solver == "gptq" and not set(self.types) & set(GRIDS):
            raise ValueError(f"`solver: gptq` solves types in blocks alone: add one of {', '.join(GRIDS)} to `types`")
        idle = sorted({"data", "sequences", "length", "correct"} & self.model_fields_set)
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
        vocab = read_vocab(Path(model.path), n_rows(weights), _turn(model))
        for note in (*vocab.notes, *_read_otherwise(model)):
            job.note(note)
        files = self.write(job, weights, vocab, self._solved(job, model, inputs))
        _beside(model, job.folder)
        verified = {"verified": "tokenizer rules, read back", **self.parity(job, model, weights, vocab)}
        differences = _read_back(job.folder, self.types, weights)
        facts = {"architecture": family.arch, "tokenizer": _told(vocab), "files": files, "difference": differences}
        return Made(facts | verified, "gguf")

    def write(
        self, job: Job, weights: Any, vocab: Vocab, solved: Mapping[str, Mapping[str, Blocks]]
    ) -> dict[str, dict[str, Any]]:
        """Writes a file of each type and tells its size and what fell back. `solved` are matrices rounded already, by type."""
        found = {}
        for kind in self.types:
            path = job.folder / f"model-{kind.upper()}.gguf"
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
            solved[str(kind)], report[str(kind)] = solved_blocks(job, model, ids, kind, self.correct)
            tell_fallbacks(job, report[str(kind)])
            if told := [each for each in report[str(kind)] if not each.fallback]:
                error, before = (fmean(getattr(each, name) for each in told) for name in ("error", "nearest"))
                job.note(
                    f"{kind}: the layers' outputs change by {error:.2g} of what they are, {before:.2g} if rounded to nearest"
                )
        write_report(job.folder, report)
        return solved

    def parity(self, job: Job, model: Model, weights: Any, vocab: Vocab) -> dict[str, Any]:
        """What llama.cpp itself found, where it is asked. Raises ModelError where it differs."""
        if self.compare == "never":
            return {}
        if not llama_cpp.installed():
            job.note(
                "llama.cpp was not asked: after `pip install 'posttrain[llama]'` it compares the next file with its model"
            )
            return {}
        path = job.scratch / "exact.gguf"
        try:
            write_gguf(path, weights.state_dict(), weights.config, vocab, "f32")
            found = llama_cpp.compare(path, Path(model.path), weights, vocab)
        finally:
            path.unlink(missing_ok=True)
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
