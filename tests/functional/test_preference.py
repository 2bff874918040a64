"""Bradley-Terry by hand."""

import math

import pytest
import torch

from posttrain.functional.preference import bradley_terry


def test_no_margin_is_one_coin():
    assert bradley_terry(torch.tensor([1.0]), torch.tensor([1.0])).item() == pytest.approx(math.log(2))


def test_margin_of_log_three():
    # sigmoid(log 3) = 3/4; flipped, 1/4
    chosen, rejected = torch.tensor([math.log(3)]), torch.tensor([0.0])
    assert bradley_terry(chosen, rejected).item() == pytest.approx(math.log(4 / 3))
    assert bradley_terry(rejected, chosen).item() == pytest.approx(math.log(4))


def test_smoothing_mixes_in_the_flipped_pair():
    chosen, rejected = torch.tensor([math.log(3)]), torch.tensor([0.0])
    wanted = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert bradley_terry(chosen, rejected, 0.1).item() == pytest.approx(wanted)
