"""What a training is given: token ids made elsewhere, mixes, skipped rows; and what its manifest says of them."""

from typing import Any

import pytest

from posttrain.data.trees import plant
from posttrain.models.load import load_format, load_tokenizer
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Message, Tokenised, TokenisedPair

CHATS = [{"prompt": f"say {n}", "completion": f"{n}"} for n in range(6)]


def test_token_ids_are_learnt_as_the_text_they_are_of(workshop: Any):
    model = workshop.model()
    form = load_format(model, load_tokenizer(model))
    chat = Conversation((Message("user", "say 1"), Message("assistant", "one")))
    (tokens,) = form.conversations(chat)
    (tree,) = plant([Tokenised(tokens.ids, tokens.trained)], form, 512).trees
    assert tree == plant([chat], form, 512).trees[0]
    (pair,) = plant([TokenisedPair((5, 6), (7,), (8, 9))], form, 512).trees
    assert (pair.prompt, [branch.tokens for branch in pair.branches]) == ((5, 6), [(7,), (8, 9)])
    assert all(all(branch.trained) for branch in pair.branches)
    with pytest.raises(DataError, match=r"hold the token 10000000, but the tokenizer has \d+\. Make the rows again"):
        plant([Tokenised((1, 10_000_000), (False, True))], form, 512)


def test_a_long_document_of_token_ids_is_read_in_pieces(workshop: Any):
    model = workshop.model()
    form = load_format(model, load_tokenizer(model))
    planted = plant([Tokenised(tuple(range(5, 25)), (False, *[True] * 19))], form, 8)
    assert planted.n_trained == 19, "every token but the first is predicted once"
    assert planted.cut == 0


def test_skipped_rows_stand_in_the_manifest(workshop: Any):
    data = [d.read_as({"on_bad_row": "skip"}) for d in workshop.rows(*CHATS, {"prompt": "say 7"}, {"prompt": ["x"]})]
    made = workshop.run("sft", workshop.model(), data, steps=1, batch_size=2)
    assert made.facts["rows"] == 6
    assert made.facts["rows_skipped"] == 2
    assert [line.split(".jsonl:")[1] for line in made.facts["skipped"]] == [
        "7: the column 'completion' is missing or null",
        "8: the column 'completion' is missing or null",
    ]
    whole = workshop.run("sft", workshop.model(), workshop.rows(*CHATS), steps=1, batch_size=2)
    assert "rows_skipped" not in whole.facts


def test_a_mix_is_trained_on_and_said(workshop: Any):
    many, few = workshop.rows(*CHATS)[0], workshop.rows({"prompt": "say red", "completion": "red"})[0]
    data = [many.read_as({"weight": 0.75}), few.read_as({"weight": 0.25, "epochs": 2.0})]
    made = workshop.run("sft", workshop.model(), data, steps=1, batch_size=2)
    assert made.facts["data"][2] == "mix of 8 rows: 6 of 6 rows (1.00 epochs) + 2 of 1 rows (2.00 epochs)"
    assert made.facts["rows"] == 8
