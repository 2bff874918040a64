"""Merging gives the weights that the adapter computed with."""

import torch

from posttrain.data.batch import Batch
from posttrain.models.load import load_policy
from tests import tiny


def test_merged_weights_compute_what_the_adapter_did(workshop):
    rows = workshop.rows({"prompt": "a", "completion": "b"})
    adapted = workshop.run(
        "sft", workshop.model(), rows, learning_rate=0.1, steps=3, adapter={"lora": {"rank": 3, "alpha": 7}}
    )
    merged = workshop.run("merge", adapted)
    batch = Batch(tiny.trees(4, 2))
    before, after, base = (load_policy(m).score(batch) for m in (adapted, merged, workshop.model()))
    assert (merged.form, merged.base) == ("dense", None)
    assert torch.allclose(before, after, atol=1e-4)
    assert not torch.allclose(base, after, atol=1e-2)
    assert not (merged.path / "adapter_config.json").exists()


def test_only_adapters_are_accepted(workshop):
    assert workshop.stage("merge").accepts == {"adapter"}
    assert workshop.stage("merge").makes_form("adapter") == "dense"
