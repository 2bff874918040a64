"""Merging gives the weights that the adapter computed with."""

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.models.load import load_policy
from posttrain.schema.errors import ModelError
from tests import tiny
from tests.kinds import MERGEABLE, VIRTUAL, wide

ROW = {"prompt": "a", "completion": "b"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MERGEABLE)
def test_merged_weights_compute_what_the_adapter_did(workshop, kind):
    options = {"learning_rate": 0.1, "steps": 3, "adapter": MERGEABLE[kind]}
    adapted = workshop.run("sft", wide(workshop), workshop.rows(ROW), **options)
    merged = workshop.run("merge", adapted)
    batch = Batch(tiny.trees(4, 2))
    before, after, base = (load_policy(m).score(batch) for m in (adapted, merged, wide(workshop)))
    assert (merged.form, merged.base) == ("dense", None)
    assert torch.allclose(before, after, atol=1e-3)
    assert not torch.allclose(base, after, atol=1e-2)
    assert not any((merged.path / name).exists() for name in ("adapter_config.json", "base_quantization.json"))
    assert 0 <= merged.facts["difference"]["logits_mean"] < merged.facts["difference"]["logits_largest"] < 1e-2
    assert abs(merged.facts["difference"]["kl"]) < 1e-6


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_are_in_no_weight(workshop, kind):
    adapted = workshop.run("sft", wide(workshop), workshop.rows(ROW), steps=1, adapter=VIRTUAL[kind])
    with pytest.raises(
        ModelError, match=r"holds virtual tokens.*Ship the adapter with its base, or train with `adapter: l"
    ):
        workshop.run("merge", adapted)


def test_only_adapters_are_accepted(workshop):
    assert workshop.stage("merge").accepts == {"adapter"}
    assert workshop.stage("merge").makes_form("adapter") == "dense"
