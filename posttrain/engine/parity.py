"""Whether transformers by itself, in a process of its own, makes of an exported folder what we make of its model.

Token ids of varied texts against tokenizer.json itself, rendered chats against ours, logits after drawn tokens, and the text
that the likeliest tokens write. transformers puts a tokenizer of its own in the place of some: that changes every answer
and says nothing, so it is refused here.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from posttrain.data.chat import ChatFormat
from posttrain.data.ollama_template import conversations
from posttrain.data.program import PromptProgram
from posttrain.data.template import render, with_template
from posttrain.data.varied_texts import varied_texts
from posttrain.models import plain_transformers
from posttrain.models.drawn import difference, drawn_ids, drawn_logits
from posttrain.models.load import load_tokenizer, load_weights
from posttrain.models.vocabulary import n_rows
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import DataError, MachineError, ModelError, PosttrainError, Stopped
from posttrain.schema.rows import Message, Prompt

from .apart import run_apart

FARTHEST = 1e-6  # mean KL in nats: both compute in fp32, of the same numbers
NEW_TOKENS = 24
QUESTION = (Message("user", "What is the capital of France?"),)


@dataclass(frozen=True)
class Answered:
    """What the other process said: ids of each text, rendered chats, tokens written; logits (rows, T, V)."""

    tokens: list[list[int]]
    rendered: list[str]
    written: list[int]
    logits: Tensor


def transformers_agrees(model: Model, folder: Path) -> dict[str, Any]:
    """What was compared between a model and the folder it was exported to, and how far apart they are. Raises ModelError at the
    first thing that differs."""
    tokenizer = load_tokenizer(model)
    weights: Any = load_weights(model, at=torch.device("cpu"))
    encodes = weights.config.is_encoder_decoder
    chats = [] if encodes or not tokenizer.chat_template else _chats(tokenizer)
    prompt = [] if encodes else _prompt(tokenizer)
    raw, texts = _raw_tokenizer(folder)
    asked = {
        "texts": texts,
        "conversations": [[message.as_dict() for message in chat] for chat in chats],
        "ids": drawn_ids(n_rows(weights)).tolist(),
        "prompt": prompt,
        "new_tokens": NEW_TOKENS,
    }
    theirs = _asked(folder, asked)
    differ = [
        t for t, ids in zip(texts, theirs.tokens, strict=True) if ids != raw.encode(t, add_special_tokens=False).ids
    ]
    if differ:
        raise ModelError(
            f"transformers reads {len(differ)} of {len(texts)} texts otherwise than tokenizer.json says, such as {differ[0]!r}: it "
            f"puts a tokenizer of its own in the place of this one for {weights.config.model_type} models. Nothing was exported. "
            "Give the model a tokenizer of its architecture, or train it on one that keeps tokenizer.json (llama, qwen3)."
        )
    for chat, text in zip(chats, theirs.rendered, strict=True):
        if text != render(tokenizer, chat, ask=True):
            raise _bad(f"it writes a chat as {text[:60]!r}")
    found = difference(drawn_logits(weights), theirs.logits.flatten(0, 1).double())
    if not found["kl"] <= FARTHEST:
        raise _bad(f"its logits are {found['kl']:.1e} nats from the model's, and {found['logits_largest']:.1e} at most")
    _same_text(weights, prompt, theirs.written, tie=2 * found["logits_largest"])
    said = {"texts": len(texts), "chats": len(chats), "written": len(theirs.written)}
    return {**said, "kl": found["kl"], "logits_largest": found["logits_largest"]}


def _raw_tokenizer(folder: Path) -> tuple[Any, list[str]]:
    """tokenizer.json without transformers, and texts with its special tokens in them. Raises ModelError where there is none."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        raw = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises Exception itself
        raise ModelError(
            f"{path.name} of the model cannot be read ({error}). Save the tokenizer again: transformers does so with "
            "`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`."
        ) from error
    return raw, varied_texts([token.content for token in raw.get_added_tokens_decoder().values()])


def _chats(tokenizer: Any) -> list[list[Message]]:
    """Chats that the template can write: with the system's words where it takes these."""
    found = []
    for chat in conversations(with_system=True):
        try:
            render(tokenizer, chat, ask=True)
        except DataError:
            continue
        found.append(chat)
    return found


def _prompt(tokenizer: Any) -> list[int]:
    return ChatFormat(with_template(tokenizer), PromptProgram()).ask(Prompt(QUESTION))


def _asked(folder: Path, asked: dict[str, Any]) -> Answered:
    """Runs the other process. Raises ModelError where the folder does not load there."""
    from safetensors import safe_open

    with TemporaryDirectory() as place:
        question, answer = Path(place, "asked.json"), Path(place, "answered.safetensors")
        question.write_text(json.dumps(asked), encoding="utf-8")
        words = [str(plain_transformers.__file__), str(folder), str(question), str(answer)]
        try:
            run_apart(words, "transformers opened the exported folder", "It has to fit into memory: free some.")
        except (MachineError, Stopped):
            raise
        except PosttrainError as error:
            raise _bad(f"it does not load there ({error})") from error
        with safe_open(answer, "pt") as file:
            said = json.loads(file.metadata()["said"])
            return Answered(said["tokens"], said["rendered"], said["written"], file.get_tensor("logits"))


@torch.no_grad()
def _same_text(weights: Any, prompt: list[int], written: list[int], tie: float) -> None:
    """Whether each token written is our likeliest too; those that we hold for `tie` equally likely may change places."""
    if not written:
        return
    ids = torch.tensor([[*prompt, *written]])
    logits = weights(input_ids=ids).logits[0, -len(written) - 1 : -1].double()
    behind = logits.max(-1).values - logits[torch.arange(len(written)), torch.tensor(written)]
    if (worst := float(behind.max())) > tie:
        raise _bad(f"it writes another text from token {int((behind > tie).nonzero()[0])} on ({worst:.1e} less likely)")


def _bad(why: str) -> ModelError:
    return ModelError(
        f"transformers by itself does not compute what the model does: {why}. Nothing was exported. Tell it in an issue, with "
        "config.json and tokenizer.json."
    )
