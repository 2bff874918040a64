"""The folder of a GGUF model: what stands beside its files, and what every file goes through before it is called good: its
tokenizer compared on texts, its weights read back and asked, and llama.cpp itself where it is there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from posttrain.data.ggml_match import compared_with
from posttrain.data.ggml_vocab import Vocab
from posttrain.data.varied_texts import N_TEXTS
from posttrain.functional.budget import Kind
from posttrain.functional.ggml_blocks import BLOCK, GRIDS
from posttrain.functional.ggml_grids import blocks_of
from posttrain.functional.rounding import Rounded
from posttrain.models import llama_cpp
from posttrain.models.drawn import difference, drawn_logits
from posttrain.models.expert_blocks import stacked
from posttrain.models.gguf_families import family_of
from posttrain.models.gguf_file import Blocks, weights_of, write_gguf
from posttrain.models.gguf_types import FILE_TYPES
from posttrain.models.load import load_tokenizer, load_weights
from posttrain.models.vocabulary import n_rows
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError

from .files import copy_model, readable
from .for_llama_cpp import vocab_of
from .gguf_writing import Writer
from .job import Job
from .layerwise import Parts, Told, write_report
from .method import Made
from .storing import REST

FARTHEST = {"f32": 1e-9, "f16": 1e-3, "bf16": 1e-2, "q8_0": 1e-2}  # mean KL in nats: more is no rounding but a mistake

Asked = Literal["auto", "always", "never"]


def vocab_noted(job: Job, model: Model, weights: Any) -> Vocab:
    """The tokenizer of a model as a file holds it, and a note of all that is unusual about it."""
    vocab = vocab_of(model, n_rows(weights))
    for note in (*vocab.notes, *_read_otherwise(model)):
        job.note(note)
    return vocab


def _read_otherwise(model: Model) -> list[str]:
    """A word of warning where transformers reads texts otherwise than tokenizer.json, which the files follow."""
    differ = compared_with(Path(model.path), load_tokenizer(model))
    if not differ:
        return []
    return [
        f"transformers reads {len(differ)} of {N_TEXTS} texts otherwise than tokenizer.json says, such as {differ[0]!r}. The "
        "files follow tokenizer.json; what is measured here is of other tokens"
    ]


def told(vocab: Vocab) -> dict[str, Any]:
    """What the artifact records of the tokenizer."""
    return {"model": vocab.model, "pre": vocab.pre, **vocab.checked, "notes": list(vocab.notes)}


def is_asked(job: Job, compare: Asked) -> bool:
    """Whether llama.cpp is asked what it says to the file in fp32."""
    if compare == "auto" and not llama_cpp.installed():
        job.note(
            "llama.cpp was not asked: after `pip install 'posttrain[llama]'` it compares the next file with its model"
        )
        return False
    return compare != "never"


def parity(job: Job, model: Model, weights: Any, vocab: Vocab, exact: Path) -> dict[str, Any]:
    """What llama.cpp itself found of the file in fp32. Raises ModelError where it differs."""
    found = llama_cpp.compare(exact, Path(model.path), weights, vocab)
    job.note(f"llama.cpp agrees: {found['texts']} texts, logits within {found['logits_largest']:.1e}")
    return {"verified": "llama.cpp", "parity": found}


def read_back(path: Path, kind: str, weights: Any, before: Any) -> dict[str, float]:
    """How far a file's model is from the one whose drawn logits were `before`. Raises ModelError where that is no rounding. The
    weights are those of the file afterwards."""
    weights.load_state_dict(weights_of(path, weights.config), strict=False)
    found = difference(before, drawn_logits(weights))
    if not found["kl"] <= FARTHEST.get(kind, float("inf")):
        raise ModelError(
            f"{path.name} read back is {found['kl']:.1e} nats from the model, more than rounding to {kind} explains: it is not "
            "called good. Write `f32` to see whether the architecture is at fault, and tell it in an issue."
        )
    return found


def written(
    job: Job, model: Model, weights: Any, kinds: Mapping[str, Kind], parts: Parts, report: Sequence[Told]
) -> Made:
    """The artifact whose matrices are blocks of unlike `kinds`, solved to `parts`: one file, and all that belongs beside it. `weights`
    may have their experts apart."""
    solved = stacked(weights, {name: _in_blocks(kind, parts[name]) for name, kind in kinds.items()})
    weights = load_weights(model, at=torch.device("cpu"))  # experts in one block, as files have them
    vocab = vocab_noted(job, model, weights)
    ((most, _),) = Counter(kinds.values()).most_common(1)
    labelled = {"general.file_type": FILE_TYPES[str(most)]}
    path = job.folder / "model.gguf"
    write_gguf(path, weights.state_dict(), weights.config, vocab, REST, blocks=solved, extra=labelled)
    job.note(f"{path.name}: {readable(path.stat().st_size)}")
    copy_model(model, job.folder, weights=False)
    write_report(job.folder, report)
    verified: dict[str, Any] = {"verified": "tokenizer rules, read back"}
    asked = is_asked(job, "auto")
    with Writer(job, weights, vocab).exact(wanted=asked) as exact:
        verified |= parity(job, model, weights, vocab, exact) if asked else {}
    difference = read_back(path, str(most), weights, drawn_logits(weights))
    n_weights = sum(each.q.size for each in solved.values())
    size = sum(each.q.size // BLOCK * GRIDS[each.kind].bytes for each in solved.values())
    facts = {"architecture": family_of(weights.config).arch, "tokenizer": told(vocab), "matrices": len(solved)}
    facts |= {"rounded": list(kinds), "bits_per_weight": 8 * size / n_weights, "difference": difference}
    return Made(facts | verified | {"fallback": {each.name: each.fallback for each in report if each.fallback}}, "gguf")


def _in_blocks(kind: Kind, part: Sequence[Tensor]) -> Blocks:
    found: Any = kind
    return Blocks(found, *blocks_of(found, Rounded(*part)))
