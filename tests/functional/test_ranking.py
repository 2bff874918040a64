"""All pairs of a prompt of which one is better, against a plain loop."""

from itertools import permutations

import pytest
import torch

from posttrain.functional.ranking import ordered_pairs

NAN = float("nan")


def by_hand(trees, grades):
    """{(better, worse): weight} by looking at every two answers."""
    found = [(a, b) for a, b in permutations(range(len(trees)), 2) if trees[a] == trees[b] and grades[a] > grades[b]]
    return {(a, b): 1 / sum(trees[x] == trees[a] for x, _ in found) for a, b in found}


def as_dict(pairs):
    return {(a, b): w for a, b, w in zip(*(each.tolist() for each in pairs), strict=True)}


@pytest.mark.parametrize(
    ("trees", "grades"),
    [
        ([0, 1, 0, 1], [1.0, 1.0, 0.0, 0.0]),
        ([0, 0, 0, 1, 1], [3.0, 1.0, 2.0, 0.5, -4.0]),
        ([2, 0, 2, 0, 2, 2], [1.0, 5.0, 1.0, 5.0, 0.0, 2.0]),  # ties, and a tree that has none of its own
        ([0, 0, 1, 1], [NAN, 1.0, NAN, NAN]),
        ([0, 0, 0], [NAN, 1.0, 0.0]),
    ],
)
def test_pairs_are_all_that_differ(trees, grades):
    assert as_dict(ordered_pairs(torch.tensor(trees), torch.tensor(grades))) == pytest.approx(by_hand(trees, grades))


def test_every_prompt_with_a_pair_weighs_the_same():
    trees, grades = torch.tensor([0] * 2 + [1] * 5 + [2] * 3), torch.tensor([1.0, 0.0, 5, 4, 3, 2, 1, 7, 7, 7])
    pairs = ordered_pairs(trees, grades)
    weights = torch.zeros(3).index_add(0, trees[pairs.better], pairs.weight)
    assert len(pairs.better) == 1 + 10
    assert weights.tolist() == pytest.approx([1.0, 1.0, 0.0])


def test_no_answers_and_no_pairs():
    empty = ordered_pairs(torch.tensor([], dtype=torch.long), torch.tensor([]))
    tied = ordered_pairs(torch.tensor([0, 0]), torch.tensor([1.0, 1.0]))
    assert [len(each) for each in (*empty, *tied)] == [0] * 6
