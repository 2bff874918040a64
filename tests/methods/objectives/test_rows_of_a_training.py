"""What a training is given: token ids made elsewhere, mixes, skipped rows; and what its manifest says of them."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.trees import grown, plant
from posttrain.engine.job import Job
from posttrain.models.load import load_format, load_tokenizer
from posttrain.schema.errors import DataError, Stopped
from posttrain.schema.rows import Conversation, Message, Tokenised, TokenisedPair

CHATS = [{"prompt": f"say {n}", "completion": f"{n}"} for n in range(6)]


def test_token_ids_are_learnt_as_the_text_they_are_of(workshop: Any):
    model = workshop.model()
    form = load_format(model, load_tokenizer(model))
    chat = Conversation((Message("user", "say 1"), Message("assistant", "one")))
    (tokens,) = form.conversations(chat)
    (tree,) = plant([Tokenised(tokens.ids, tokens.trained)], form, 512)
    assert tree == plant([chat], form, 512)[0]
    (pair,) = plant([TokenisedPair((5, 6), (7,), (8, 9))], form, 512)
    assert (pair.prompt, [branch.tokens for branch in pair.branches]) == ((5, 6), [(7,), (8, 9)])
    assert all(all(branch.trained) for branch in pair.branches)
    with pytest.raises(DataError, match=r"hold the token 10000000, but the tokenizer has \d+\. Make the rows again"):
        plant([Tokenised((1, 10_000_000), (False, True))], form, 512)


def test_a_long_document_of_token_ids_is_read_in_pieces(workshop: Any):
    model = workshop.model()
    form = load_format(model, load_tokenizer(model))
    one = grown(Tokenised(tuple(range(5, 25)), (False, *[True] * 19)), form, 8, "")
    learnt = sum(branch.n_trained() for tree in one.trees for branch in tree.branches)
    assert learnt == 19, "every token but the first is predicted once"
    assert not one.cut


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


def test_a_resumed_run_reads_nothing_again(workshop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not even when the file is gone: its rows are on the shelf beside the checkpoint."""
    (data,), model = workshop.rows(*CHATS), workshop.model()
    given: dict[str, Any] = {"steps": 4, "batch_size": 2, "keep": {"replay": {"data": "given"}}}
    stage, inputs = workshop.stage("sft", (data,), **given), {"data": (data,), "keep.replay.data": (data,)}

    def run(name: str, stop: bool = False) -> bytes:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (tmp_path / "scratch").mkdir(exist_ok=True)
        stage.run(Job(folder, tmp_path / "scratch", stop=lambda: stop), model=model, **inputs)
        return (folder / "model.safetensors").read_bytes()

    whole = run("whole")
    shutil.rmtree(tmp_path / "scratch")
    with pytest.raises(Stopped):
        run("stopped", stop=True)
    next(data.path.glob("*.jsonl")).unlink()
    assert run("resumed") == whole


def test_a_meaningless_set_stops_the_stage_whatever_it_is_mixed_with(workshop: Any):
    good = workshop.rows(*CHATS)[0]
    unlearnt = workshop.rows(*({"input_ids": [5, 6, n], "labels": [-100] * 3} for n in range(7, 11)))[0]
    for data in ((unlearnt,), (good, unlearnt)):
        with pytest.raises(DataError, match=r"Of 4 rows that were looked at, nothing is learnt from any row"):
            workshop.run("sft", workshop.model(), data, steps=1)


def test_what_is_replayed_is_mixed_as_its_sets_say(workshop: Any, tmp_path: Path):
    """A set of weight 0.9 beside one of 0.1: most of what is replayed comes from it."""
    many = workshop.rows(*({"text": f"a {n}"} for n in range(18)))[0].read_as({"weight": 0.9})
    few = workshop.rows(*({"text": f"b {n}"} for n in range(18)))[0].read_as({"weight": 0.1})
    (data,), model = workshop.rows(*CHATS), workshop.model()
    stage = workshop.stage("sft", (data,), keep={"replay": {"data": "given"}})
    policy = stage._policy(model, Job(tmp_path, tmp_path))
    general = stage._beside(model, policy, {"keep.replay.data": (many, few)}, Job(tmp_path, tmp_path))
    assert len(general["keep.replay.data"]) == 20
