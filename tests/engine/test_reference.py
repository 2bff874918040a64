"""What a reference said is kept: the same numbers in any batch, without the model."""

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.engine.reference import Remembered
from posttrain.models.policy import Policy
from tests import tiny


@pytest.fixture(params=[(1,), (2,), (1, 3)])
def trees(request):
    return tuple(tree for each in zip(*(tiny.trees(9, n, seed=4) for n in request.param), strict=True) for tree in each)


def test_what_is_kept_is_what_the_model_says(trees):
    reference = Policy(tiny.model(seed=2), tiny.tokenizer(), layout="packed", micro_tokens=40)
    kept = Remembered(reference, trees)
    for batch in (Batch(trees), Batch((trees[7], trees[0], trees[3])), Batch(trees).select([5, 2])):
        with torch.no_grad():
            assert torch.allclose(kept.answer_logps(batch), reference.answer_logps(batch), atol=1e-5)


def test_a_row_that_was_never_computed_is_refused(trees):
    kept = Remembered(Policy(tiny.model(), tiny.tokenizer(), layout="packed"), trees[:4])
    with pytest.raises(KeyError):
        kept.answer_logps(Batch(trees[4:6]))
