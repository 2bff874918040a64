"""Which texts a model reads as nearly the same."""

import pytest
import torch

from posttrain.models.meaning import repeats, vectors
from posttrain.models.policy import Policy
from tests import tiny


def test_a_text_means_what_itself_means_and_padding_changes_nothing():
    policy = Policy(tiny.model(), tiny.tokenizer())
    texts = [
        "open the red box",
        "close it",
        "open the red box",
        "a much longer text about the road to the town",
        "close it",
    ]
    found = vectors(policy, texts)
    assert found.norm(dim=-1).tolist() == pytest.approx([1.0] * 5)
    assert float(found[0] @ found[2]) == pytest.approx(1.0) and float(found[1] @ found[4]) == pytest.approx(1.0)
    assert float(found[0] @ found[3]) < 0.9
    assert repeats(found, 0.999) == [False, False, True, False, True]


def test_a_repetition_is_of_what_was_kept():
    angles = torch.tensor([0.0, 0.4, 0.8, 1.2])
    around = torch.stack([angles.cos(), angles.sin()], 1).double()
    assert repeats(around, 0.9) == [False, True, False, True]  # cos 0.4 = 0.92, cos 0.8 = 0.70
    assert repeats(around, 0.95) == [False] * 4
