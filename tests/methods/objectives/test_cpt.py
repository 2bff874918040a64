"""Continued pretraining: every token counts once, documents do not see each other, long ones are split and not cut."""

import json
from pathlib import Path

import pytest
import torch

import posttrain as pt
from posttrain.data.batch import Batch
from posttrain.data.chat import ChatFormat
from posttrain.data.trees import plant
from posttrain.methods.objectives.cpt import CPT
from posttrain.models.policy import Models, Policy
from posttrain.schema.rows import Text
from tests import tiny

DOCUMENTS = (Text("one fish"), Text("two"), Text("a longer document than the others"))


def trees(max_length: int = 64):
    return plant(DOCUMENTS, ChatFormat(tiny.tokenizer()), max_length)


def test_the_loss_is_the_mean_over_all_tokens_of_documents_read_alone() -> None:
    policy = Policy(tiny.model(seed=1), tiny.tokenizer())
    batch = Batch(trees())
    found, _ = CPT().loss(Models(policy), batch, batch.counts())
    nats, n = 0.0, 0
    for tree in trees():
        ids = torch.tensor([[*tree.prompt, *tree.branches[0].tokens]])
        logps = policy.model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
        nats, n = nats - float(logps.sum()), n + len(logps)
    assert float(found) == pytest.approx(nats / n, abs=1e-5)


def test_long_documents_are_split_and_each_ends_with_the_end_of_sequence() -> None:
    eos = tiny.tokenizer().eos_token_id
    whole, pieces = trees(), trees(max_length=8)
    assert all(tree.branches[0].tokens[-1] == eos for tree in whole)
    assert len(pieces) > len(whole)
    assert max(tree.longest_path() for tree in pieces) <= 8
    learnt = [[t for tree in some for t in tree.branches[0].tokens] for some in (whole, pieces)]
    assert learnt[0] == learnt[1]


@pytest.mark.slow
def test_replay_and_budget_stand_in_the_manifest_and_change_what_is_made(tmp_path: Path) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"text": f"the cat is {n}"}) + "\n" for n in range(12)), encoding="utf-8")
    options = {
        "data": "lab:harbor_text/dev",
        "steps": 4,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "out": tmp_path / "runs",
    }
    bare = pt.train("lab", pt.CPT(), **options)
    held = pt.train(
        "lab", pt.CPT(), **options,
        keep={"replay": {"data": str(general), "share": 0.5}, "l2": 0.1},
        forget={"on": str(general), "at_most": "1%", "every": 2, "then": "stop"},
    )  # fmt: skip
    assert held.digest != bare.digest
    general, learnt = held.facts["forget"]["general"], held.facts["forget"]["learnt"]
    assert general["after"] <= 1.01 * general["before"]
    assert learnt["before"] > 1
    assert set(held.inputs) == {"model", "data", "keep.replay.data", "forget.on"}
    kept = pt.train("lab", pt.CPT(), **options)
    assert kept.path == bare.path
