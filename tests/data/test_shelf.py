"""Trees on the disk are the trees that were put there; a shelf that was not finished, or was damaged, is none."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from posttrain.data.shelf import FILES, WHOLE, Picked, Shelf, fill, found
from posttrain.data.trees import Grown
from posttrain.functional.layout import Branch, Tree
from tests import tiny


def rows(n: int, n_branches: int = 1, seed: int = 0) -> list[Grown]:
    return [Grown((tree,)) for tree in tiny.trees(n, n_branches, seed=seed)]


@pytest.mark.parametrize("n_branches", [1, 3])
def test_what_is_put_there_comes_back(tmp_path: Path, n_branches: int) -> None:
    trees = tiny.trees(40, n_branches, seed=2)
    shelf = fill(tmp_path, rows(40, n_branches, seed=2), {"decision": "as it is"})
    assert tuple(shelf) == trees
    assert shelf[-1] == trees[-1]
    assert tuple(shelf[3:6]) == trees[3:6]
    assert (len(shelf), shelf.facts) == (40, {"decision": "as it is"})
    assert shelf.learnt.tolist() == [sum(branch.n_trained() for branch in tree.branches) for tree in trees]
    with pytest.raises(IndexError):
        shelf[40]


def test_answers_of_any_number_come_back_with_their_grades(tmp_path: Path) -> None:
    def branch(*ids: int, grade: float | None = None) -> Branch:
        return Branch(ids, (True,) * len(ids), grade)

    trees = [
        Tree((1, 2), (branch(3, grade=1.5), branch(4, 5, grade=-2.0), branch(6, 7, 8))),
        Tree((9,), (branch(10),)),
        Tree((11,), (branch(12, grade=0.0), branch(13, grade=1.0))),
    ]
    assert list(fill(tmp_path, [Grown(tuple(trees))])) == trees


def test_how_sure_a_pair_is_comes_back(tmp_path: Path) -> None:
    sure = Tree((1,), (Branch((2,), (True,), 1.0), Branch((3,), (True,), 0.0)))
    pair = (Branch((2,), (True,), 1.0, 0.75), Branch((3,), (True,), 0.0, 0.25))
    assert list(fill(tmp_path, [Grown((sure, Tree((1,), pair)))])) == [sure, Tree((1,), pair)]


def test_what_became_of_each_row_is_kept(tmp_path: Path) -> None:
    one, two, three = tiny.trees(3, 1)
    shelf = fill(tmp_path, [Grown((one, two), split=True), Grown(()), Grown((three,), cut=True)])
    assert shelf.rows.tolist() == [[2, 0, 1], [0, 0, 0], [1, 1, 0]]
    assert tuple(shelf) == (one, two, three)


def test_empty_prompts_and_large_ids_are_kept(tmp_path: Path) -> None:
    trees = [Tree((), (Branch((7, 2_000_000_000), (False, True)),)), Tree((1,), (Branch((3,), (True,)),))]
    assert list(fill(tmp_path, [Grown(tuple(trees))])) == trees


def test_an_error_leaves_nothing_there(tmp_path: Path) -> None:
    def broken() -> Iterator[Grown]:
        yield from rows(3)
        raise OSError("the disk went away")

    folder = tmp_path / "shelf"
    assert found(folder) is None
    with pytest.raises(OSError, match="went away"):
        fill(folder, broken())
    assert not folder.exists()


@pytest.mark.parametrize("name", [*(f"{name}.bin" for name in FILES), WHOLE])
def test_a_shelf_that_lost_its_end_is_none(tmp_path: Path, name: str) -> None:
    fill(tmp_path, rows(5))
    again = found(tmp_path)
    assert isinstance(again, Shelf)
    assert tuple(again) == tiny.trees(5, 1)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert found(tmp_path) is None
    assert tuple(fill(tmp_path, rows(5))) == tiny.trees(5, 1)


def test_facts_may_be_gathered_while_rows_are_drawn(tmp_path: Path) -> None:
    facts: dict[str, int] = {}

    def drawn() -> Iterator[Grown]:
        for n, row in enumerate(rows(6, 2), start=1):
            facts["rows"] = n
            yield row

    assert fill(tmp_path, drawn(), facts).facts == {"rows": 6}


def test_trees_are_picked_from_several_sequences() -> None:
    one, other = tiny.trees(3, 1, seed=1), tiny.trees(2, 1, seed=2)
    picked = Picked([one, other], np.array([4, 0, 4, 2]))
    assert tuple(picked) == (other[1], one[0], other[1], one[2])
    assert tuple(picked[1::2]) == (one[0], one[2])
    assert picked[-1] == one[2]
    with pytest.raises(IndexError):
        picked[4]
