"""A batch keeps answers, tokens and what is known of them together, however it is cut."""

import torch

from posttrain.data.batch import Batch
from posttrain.functional.layout import Branch, Tree


def branch(n: int, trained: int, grade: float | None = None) -> Branch:
    return Branch(tuple(range(n)), (True,) * trained + (False,) * (n - trained), grade)


BATCH = Batch((
    Tree((1,), (branch(3, 3, 1.0), branch(2, 1))),
    Tree((2, 2), (branch(4, 2, 0.5),)),
    Tree((3,), (branch(1, 1), branch(2, 2), branch(5, 4, -1.0))),
))  # fmt: skip


def test_answers_stand_branch_by_branch():
    assert len(BATCH) == 6
    assert BATCH.n_trained.tolist() == [3, 2, 1, 1, 2, 4]
    assert BATCH.tree_of.tolist() == [0, 1, 2, 0, 2, 2]
    assert BATCH.grades.nan_to_num(9).tolist() == [1.0, 0.5, 9.0, 9.0, 9.0, -1.0]
    assert BATCH.counts() == (13, 3, 6, 6)


def test_values_of_tokens_and_answers_become_one_another():
    tokens = torch.arange(13.0)
    assert BATCH.per_answer(tokens).tolist() == [3, 7, 5, 6, 15, 42]
    assert BATCH.per_token(torch.arange(6.0)).tolist() == [0, 0, 0, 1, 1, 2, 3, 4, 4, 5, 5, 5, 5]


def test_a_part_keeps_the_columns_of_its_answers_and_tokens():
    full = BATCH.having(score=torch.arange(6.0)).having_tokens(value=torch.arange(13.0))
    part = full.select([2, 0])
    assert part.score.tolist() == [2, 0, 4, 3, 5]
    assert part.value.tolist() == [5, 0, 1, 2, 7, 8, 6, 9, 10, 11, 12]
    assert [branch.n_trained() for branch in part.branches] == [1, 3, 2, 1, 4]


def test_parts_together_hold_everything_once():
    full = BATCH.having(score=torch.arange(6.0)).having_tokens(value=torch.arange(13.0))
    for micro_tokens in (1, 8, 100):
        parts = full.split(micro_tokens)
        assert sorted(x for part in parts for x in part.score.tolist()) == list(range(6))
        assert sorted(x for part in parts for x in part.value.tolist()) == list(range(13))
