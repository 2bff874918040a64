"""How far a model is from another: by whole logits, and nothing for itself."""

import json

import pytest
import torch

from posttrain.models.load import load_format, load_policy
from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Text
from tests import tiny

TEXTS = [{"text": "abc def"}, {"text": "the quick brown fox"}, {"text": "ba"}]


def metrics(workshop, model, against, rows, **options):
    found = workshop.run("fidelity", model, rows, inputs={"against": against}, against="base", **options)
    return json.loads((found.path / "findings.json").read_text())["metrics"]


def test_it_is_that_of_whole_logits(workshop):
    ours, theirs = workshop.model(0), workshop.model(1)
    found = metrics(workshop, ours, theirs, workshop.rows(*TEXTS))
    q, p = (load_policy(model) for model in (ours, theirs))
    nats, same = [], []
    for row in TEXTS:
        ids = torch.tensor([load_format(ours, q.tokenizer).text(Text(row["text"])).ids])
        with torch.no_grad():
            log_q, log_p = (each.model(input_ids=ids).logits[0, :-1].log_softmax(-1) for each in (q, p))
        nats += (log_p.exp() * (log_p - log_q)).sum(-1).tolist()
        same += (log_p.argmax(-1) == log_q.argmax(-1)).tolist()
    assert found["kl"]["value"] == pytest.approx(sum(nats) / len(nats), rel=1e-4)
    assert found["agreement"]["value"] == pytest.approx(sum(same) / len(same))


def test_a_model_is_itself(workshop):
    found = metrics(workshop, workshop.model(), workshop.model(), workshop.rows(*TEXTS))
    assert abs(found["kl"]["value"]) < 1e-9
    assert found["agreement"]["value"] == 1


def test_only_answers_of_conversations_count(workshop):
    rows = workshop.rows({"prompt": "a long question " * 5, "completion": "x"})
    other = workshop.rows({"prompt": "b", "completion": "x"})
    long, short = (metrics(workshop, workshop.model(0), workshop.model(1), each) for each in (rows, other))
    assert long["kl"]["value"] != short["kl"]["value"]
    assert long["kl"]["n"] == short["kl"]["n"] == 1


def test_another_tokenizer_is_refused(workshop):
    other = workshop.model(1)
    grown = tiny.tokenizer()
    grown.add_tokens(["<new>"])
    grown.save_pretrained(other.path)
    with pytest.raises(ModelError, match=r"another tokenizer.*Hold it `against` the model that it was made from"):
        metrics(workshop, workshop.model(0), workshop.store.model(str(other.path)), workshop.rows(*TEXTS))
