"""llama.cpp asked the same as the model: tokens, logits, the text that follows, the chat template; and its own rounding of a file.

The file that is asked is the model in fp32 and the cache is too, without flash attention: what differs then is a mistake in writing
the file, not rounding. A mixture of experts chooses others already where the cache has half precision.
"""

import ctypes
import importlib
import importlib.util
from collections import deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.data.ggml_match import compared_texts
from posttrain.data.ggml_vocab import Source, Vocab, read_source
from posttrain.data.varied_texts import varied_texts
from posttrain.functional.ggml_blocks import Array
from posttrain.schema.errors import MissingExtra, ModelError

from .gguf_fields import context_of
from .gguf_file import gguf_package
from .gguf_types import FILE_TYPES, Blend, TensorType

F32 = 0  # ggml's number of the type
N_CONTEXT, N_WRITTEN = 256, 24
FARTHEST = 1e-6  # mean KL in nats
HEARD: deque[str] = deque(maxlen=50)  # what llama.cpp said last
EARS: list[Any] = []  # the function that it tells, which must live as long as the library


def installed() -> bool:
    """Whether the package llama-cpp-python is there."""
    return importlib.util.find_spec("llama_cpp") is not None


def require(wanted: str) -> None:
    """Raises MissingExtra where the package is not there, which names what is `wanted` of it."""
    if not installed():
        raise MissingExtra("llama_cpp", "llama", wanted)


@cache
def package() -> Any:
    """The library, whose words are kept rather than printed."""
    found = importlib.import_module("llama_cpp")

    @found.llama_log_callback
    def hear(level: int, text: bytes, data: Any) -> None:
        HEARD.append(text.decode(errors="replace").strip())

    found.llama_log_set(hear, None)
    EARS.append(hear)
    return found


def opened(path: Path, n_context: int = N_CONTEXT) -> Any:
    """llama.cpp with a file, exact. Raises ModelError where it does not load."""
    exact = {"logits_all": True, "flash_attn": False, "type_k": F32, "type_v": F32}
    return _opened(path, n_ctx=n_context, n_batch=n_context, **exact)


def at_speed(path: Path, n_context: int, n_threads: int) -> Any:
    """llama.cpp with a file as it is used. Raises ModelError where it does not load."""
    return _opened(path, n_ctx=n_context, n_threads=n_threads, n_threads_batch=n_threads)


def _opened(path: Path, **options: Any) -> Any:
    found = package()
    try:
        return found.Llama(str(path), n_gpu_layers=0, verbose=False, **options)
    except (ValueError, RuntimeError, OSError) as error:
        why = next((line for line in reversed(HEARD) if "error" in line), str(error))
        raise _bad(path, f"it does not load ({why})") from error


def quantise(exact: Path, path: Path, kind: Blend, embedding: TensorType, matters: Mapping[str, Array]) -> None:
    """Writes a file in fp32 again, as a blend: llama.cpp chooses the type of every matrix but of embeddings and head, and rounds.
    `matters` is what columns are worth, by the file's names, of all experts one behind the other. Raises ModelError where llama.cpp
    does not."""
    llama, types = package(), gguf_package(f"`{kind}`").GGMLQuantizationType
    HEARD.clear()
    kept = [np.ascontiguousarray(each, dtype=np.float32).ravel() for each in matters.values()]  # as long as it reads
    listed = (llama.llama_model_imatrix_data * (len(kept) + 1))()  # the last one is empty, and ends it
    for entry, name, each in zip(listed, matters, kept, strict=False):
        entry.name, entry.size = name.encode(), each.size
        entry.data = each.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    options = llama.llama_model_quantize_default_params()
    options.ftype, options.nthread = FILE_TYPES[kind], torch.get_num_threads()
    options.token_embedding_type = options.output_tensor_type = types[embedding.upper()].value
    if kept:
        options.imatrix = listed
    if llama.llama_model_quantize(str(exact).encode(), str(path).encode(), ctypes.byref(options)) != 0:
        path.unlink(missing_ok=True)
        why = next((line for line in reversed(HEARD) if "rror" in line or "failed" in line), "it does not say why")
        raise ModelError(
            f"llama.cpp does not round this model to {kind} ({why}). Write another type, and tell it in an issue with config.json."
        )


def compare(path: Path, folder: Path, weights: Any, vocab: Vocab, farthest: float = FARTHEST) -> dict[str, Any]:
    """What was compared of a file in fp32 and the model of a folder, which is in the machine's memory, and how far apart they
    are. A file in blocks may be `farthest` nats from what its numbers stand for. Raises ModelError at the first thing that
    differs."""
    n_context, source = min(N_CONTEXT, context_of(weights.config)), read_source(folder)
    llama = opened(path, n_context)
    try:
        n_texts = _same_tokens(path, llama, source, vocab)
        _same_template(path, llama, vocab)
        ids = source.ids(" ".join(varied_texts()[-40:]))[: max(n_context - N_WRITTEN, 2)]
        found = _same_logits(path, llama, weights, ids, farthest)
        _same_text(path, llama, weights, ids[: len(ids) // 2], tie=2 * found["logits_largest"])
    finally:
        llama.close()
    return {"texts": n_texts, "tokens": len(ids), "written": N_WRITTEN, **found}


def tokens_of(llama: Any, text: str) -> list[int]:
    """llama.cpp's ids of a text, special tokens in it read as such."""
    return list(llama.tokenize(text.encode(), add_bos=False, special=True))


def _same_tokens(path: Path, llama: Any, source: Source, vocab: Vocab) -> int:
    texts = compared_texts(source, vocab.checked.get("begins", ""))
    differ = [text for text in texts if tokens_of(llama, text) != source.ids(text)]
    if len(differ) > int(vocab.checked["differ"]):
        raise _bad(path, f"{len(differ)} of {len(texts)} texts have other tokens, such as {differ[0]!r}")
    return len(texts)


def _same_template(path: Path, llama: Any, vocab: Vocab) -> None:
    if llama.metadata.get("tokenizer.chat_template", "") != vocab.template:
        raise _bad(path, "it has another chat template")
    theirs = {"bos": llama.token_bos(), "eos": llama.token_eos()}
    if wrong := [name for name in theirs if name in vocab.special and theirs[name] != vocab.special[name]]:
        raise _bad(path, f"its {wrong[0]} is the token {theirs[wrong[0]]}, and not {vocab.special[wrong[0]]}")


@torch.no_grad()
def _dense(weights: Any, ids: list[int]) -> Tensor:
    """(T, V): the model's logits behind every token."""
    logits: Tensor = weights(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    return logits


def _same_logits(path: Path, llama: Any, weights: Any, ids: list[int], farthest: float) -> dict[str, float]:
    llama.reset()
    llama.eval(ids)
    theirs = torch.from_numpy(np.array(llama.scores[: len(ids)])).double()
    ours = _dense(weights, ids)
    p, q = ours.log_softmax(-1), theirs.log_softmax(-1)
    kl, largest = float((p.exp() * (p - q)).sum(-1).mean()), float((ours - theirs).abs().max())
    if not kl <= farthest:
        raise _bad(path, f"its logits are {kl:.1e} nats from the model's, and {largest:.1e} at most")
    return {"kl": kl, "logits_largest": largest}


def _same_text(path: Path, llama: Any, weights: Any, ids: list[int], tie: float) -> None:
    """Compares what each writes on, the likeliest token at a time. Two tokens that the model holds for `tie` equally
    likely may change places."""
    written = list(ids)
    llama.reset()
    llama.eval(ids)
    for n in range(N_WRITTEN):
        ours = _dense(weights, written)[-1]
        theirs = int(np.argmax(llama.scores[llama.n_tokens - 1]))
        if ours.max() - ours[theirs] > tie:
            raise _bad(path, f"it writes another text from token {n} on")
        written.append(int(ours.argmax()))
        llama.eval(written[-1:])


def _bad(path: Path, why: str) -> ModelError:
    return ModelError(
        f"llama.cpp and the model do not agree on {path.name}: {why}. The file is not called good. Tell it in an issue with "
        "config.json and tokenizer.json, and use llama.cpp's own convert_hf_to_gguf.py meanwhile."
    )
