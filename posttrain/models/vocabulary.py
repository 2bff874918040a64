"""Room for new tokens in the weights. A new row is the mean of the old ones, in the embedding and in the head, so that
nothing is drawn and a new token is as likely as an average one.

A base model of `v` tokens, and ids `v, v+1`:   E (v, d) -> (v+2, d),   E[v] = E[v+1] = mean of E[:v]
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from posttrain.data.chat import ChatFormat

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PADDING = "<|pad|>"


@torch.no_grad()
def make_room(model: Any, ids: Sequence[int]) -> None:
    """Gives tokens that are new to a model their rows, wider tables where these are too short."""
    if not ids:
        return
    first, n = min(ids), max(ids) + 1
    if n > len(_table(model.get_input_embeddings())):
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(n, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for table in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
            if table is not None:
                table[first:n] = table[:first].mean(0, keepdim=True)


def give_padding(model: Any, tokenizer: "PreTrainedTokenizerBase") -> None:
    """A padding token that ends no answer: programs that look for the last token that is not padding must find the one
    that ends an answer. A tokenizer without such a token gets a new one; where an adapter sits on the model, whose base
    cannot grow, one that it has takes its place if there is any."""
    ends = ChatFormat(tokenizer).stop_ids
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        names = ("unk_token", "bos_token") if hasattr(model, "peft_config") else ()
        spare = [getattr(tokenizer, name) for name in names if getattr(tokenizer, f"{name}_id") not in (None, *ends)]
        tokenizer.add_special_tokens({"pad_token": spare[0] if spare else PADDING})
        if tokenizer.pad_token_id >= n_rows(model):
            make_room(model, [tokenizer.pad_token_id])
    model.config.pad_token_id = tokenizer.pad_token_id


def n_rows(model: Any) -> int:
    """How many tokens a model has rows for."""
    return len(_table(model.get_input_embeddings()))


def token_layers(model: "PreTrainedModel") -> list[str]:
    """The names of the layers that hold a row for every token: the embedding, and the head where it is not the same
    matrix."""
    inside, head = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [inside] if head is None or _table(head) is _table(inside) else [inside, head]
    return [name for layer in layers for name, module in model.named_modules() if module is layer]


def _table(layer: Any) -> nn.Parameter:
    return layer.weight
