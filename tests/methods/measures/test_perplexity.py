"""Perplexity by its definition; documents are read apart, long ones in pieces that predict every token once."""

from math import exp

import pytest
import torch

from posttrain.models.load import load_tokenizer, load_weights

TEXTS = [{"text": "abcabcabc"}, {"text": "hello there"}]


@torch.no_grad()
def by_definition(model, texts):
    weights, tokenizer = load_weights(model), load_tokenizer(model)
    nats, tokens = 0.0, 0
    for row in texts:
        ids = torch.tensor([[*tokenizer(row["text"]).input_ids, tokenizer.eos_token_id]])
        logps = weights(input_ids=ids).logits[0].log_softmax(-1)
        nats -= sum(float(logps[i, token]) for i, token in enumerate(ids[0, 1:].tolist()))
        tokens += ids.shape[1] - 1
    return exp(nats / tokens), tokens


def test_equals_the_definition(workshop):
    model = workshop.model()
    wanted, tokens = by_definition(model, TEXTS)
    found = workshop.findings("perplexity", model, workshop.rows(*TEXTS)).metrics["perplexity"]
    assert found.value == pytest.approx(wanted, rel=1e-4)
    assert found.n == tokens
    assert found.low < found.value < found.high


def test_pieces_of_a_long_text_predict_every_token_once(workshop):
    whole = workshop.findings("perplexity", workshop.model(), workshop.rows({"text": "x" * 50}, {"text": "y" * 33}))
    pieces = workshop.findings(
        "perplexity", workshop.model(), workshop.rows({"text": "x" * 50}, {"text": "y" * 33}), max_length=7
    )
    assert pieces.metrics["perplexity"].n == whole.metrics["perplexity"].n == 83
