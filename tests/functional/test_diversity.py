"""Repetition and distinct n-grams by hand, and an interval that holds what more answers would show."""

import random

import pytest
import torch

from posttrain.functional.divergence import Head
from posttrain.functional.diversity import distinct, ngrams, repetition
from posttrain.functional.entropy import token_entropies


def test_ngrams_by_hand():
    assert ngrams([1, 2, 3], 3) == [(1, 2, 3)] and ngrams([1, 2], 3) == []
    assert repetition("aaaa", 1) == 0.75 and repetition("abcabc", 3) == 0.25 and repetition("", 2) == 0.0


def test_distinct_by_hand():
    """ab bc, ab bd, aa: five pieces of two, four of them different. Without one of them: 3/3, 3/3, 3/4; their mean is 11/12,
    so the error is sqrt(2/3 (1/144 + 1/144 + 4/144)) = 1/6."""
    found = distinct(["abc", "abd", "aa", "x"], 2)
    assert found is not None and found.value == 0.8 and found.n == 3
    assert found.low == pytest.approx(0.8 - 1.959964 / 6) and found.high == 1.0


def test_of_one_or_none_little_is_known():
    assert distinct(["abab"], 2) == (pytest.approx(2 / 3), 0.0, 1.0, 1)
    assert distinct(["a", ""], 2) is None


def test_the_same_answer_for_everything_is_not_distinct():
    draw = random.Random(0)
    varied = ["".join(draw.choice("abcdefghij") for _ in range(12)) for _ in range(40)]
    same = ["abcdefghijkl"] * 40
    one, other = distinct(varied, 3), distinct(same, 3)
    assert one is not None and other is not None
    assert one.low > 0.5 and other.high < 0.1 and one.low < one.value < one.high


def test_entropy_by_hand():
    even = torch.zeros(1, 8)
    sure = torch.tensor([[0.0, -1000.0]])
    assert token_entropies(even).item() == pytest.approx(2.0794415, abs=1e-6)
    assert token_entropies(sure).item() == 0.0
    quarter = torch.tensor([[1.0, 3.0]]).log()
    assert token_entropies(quarter).item() == pytest.approx(0.5623351, abs=1e-6)  # -(1/4 log 1/4 + 3/4 log 3/4)


def test_entropy_in_chunks_is_that_of_whole_logits():
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(7, 5), torch.randn(11, 5), torch.randn(11)
    whole = token_entropies(hidden @ weight.t() + bias)
    assert torch.allclose(token_entropies(Head(hidden, weight, bias), chunk=3), whole, atol=1e-5)
