"""A GGUF file beside the model that it was made of: whether it holds that tokenizer, and whether llama.cpp computes the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from posttrain.data.ggml_match import compared_with, read_vocab
from posttrain.data.ggml_vocab import Vocab
from posttrain.data.template import turn_end, with_template
from posttrain.data.varied_texts import N_TEXTS
from posttrain.models import llama_cpp
from posttrain.models.gguf_fields import vocab_fields
from posttrain.models.gguf_file import fields_in, file_in, weights_of
from posttrain.models.load import load_tokenizer, load_weights
from posttrain.models.vocabulary import n_rows
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError, UsageError, nearest

ROUNDED = 1e-2  # mean KL in nats: llama.cpp rounds what it multiplies with blocks to eight bits as well


def vocab_of(model: Model, rows: int) -> Vocab:
    """The vocabulary of a model's file, for `rows` embeddings. Raises ModelError where llama.cpp would read a text
    differently."""
    return read_vocab(Path(model.path), rows, turn_end(with_template(load_tokenizer(model))).token)


def file_of(model: Model, kind: str | None) -> Path:
    """The file of a type in a model's folder; the smallest if none is asked for. Raises UsageError where there is none."""
    if kind is None:
        return file_in(Path(model.path))
    types = {path.stem.removeprefix("model-").lower(): path for path in sorted(Path(model.path).glob("*.gguf"))}
    if kind not in types:
        raise UsageError(f"{model.path} holds no file of the type {kind!r}. {nearest(kind, types)}")
    return types[kind]


def file_agrees(model: Model, path: Path) -> tuple[Vocab, dict[str, Any]]:
    """The vocabulary of a model of files, and what was compared of one of them. Raises ModelError at the first thing that
    differs."""
    if differ := compared_with(Path(model.path), load_tokenizer(model)):
        raise ModelError(
            f"transformers, which the model learnt with, reads {len(differ)} of {N_TEXTS} texts otherwise than tokenizer.json says, "
            f"such as {differ[0]!r}, and llama.cpp follows tokenizer.json. Nothing was exported. Give the model a tokenizer of its "
            "architecture, or train it on one that keeps tokenizer.json (llama, qwen3)."
        )
    weights: Any = load_weights(model, at=torch.device("cpu"))
    vocab = vocab_of(model, n_rows(weights))
    if wrong := next(_differing(path, vocab), None):
        raise ModelError(
            f"{path.name} was made of another tokenizer than the one beside it: its {wrong} is not that of tokenizer.json and its "
            "configuration. Nothing was exported. Write the file again with `gguf`."
        )
    weights.load_state_dict(weights_of(path, weights.config), strict=False)
    checked = {"texts": N_TEXTS, "verified": "tokenizer rules, read back"}
    if not llama_cpp.installed():
        return vocab, checked
    found = llama_cpp.compare(path, Path(model.path), weights, vocab, farthest=ROUNDED)
    return vocab, {**checked, **found, "verified": "llama.cpp"}


def _differing(path: Path, vocab: Vocab) -> Iterator[str]:
    """The fields of a file that are not those of a vocabulary."""
    found = fields_in(path)
    for key, wanted in vocab_fields(vocab).items():
        same = key.endswith(".scores") or found.get(key) == wanted  # scores are fp32 there
        if not same:
            yield key
