"""Answers that are ranked: all pairs of a prompt of which one is better, as InstructGPT takes them (Ouyang et al. 2022,
arXiv 2203.02155, section 3.5). Shapes: B answers, M pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class OrderedPairs(NamedTuple):
    """Answers by number: `better` and `worse` (M,), and `weight` (M,): one over the pairs of their prompt."""

    better: Tensor
    worse: Tensor
    weight: Tensor


def ordered_pairs(tree_B: Tensor, grades_B: Tensor) -> OrderedPairs:
    """All pairs of answers of one tree whose grades differ. A NaN grade is in no pair.

    >>> pairs = ordered_pairs(torch.tensor([0, 0, 0, 1]), torch.tensor([3.0, 1.0, 2.0, 9.0]))
    >>> pairs.better.tolist(), pairs.worse.tolist()
    ([0, 0, 2], [1, 2, 1])
    """
    is_pair = (tree_B[:, None] == tree_B[None, :]) & (grades_B[:, None] > grades_B[None, :])
    better, worse = is_pair.nonzero(as_tuple=True)
    n_pairs = torch.bincount(tree_B[better], minlength=int(tree_B.max()) + 1 if len(tree_B) else 0)
    return OrderedPairs(better, worse, 1 / n_pairs[tree_B[better]])
