"""Trees on the disk are the trees that were put there; a shelf that was not finished is none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.data.shelf import WHOLE, Shelf, fill, found
from posttrain.functional.layout import Branch, Tree
from tests import tiny


@pytest.mark.parametrize("n_branches", [1, 3])
def test_what_is_put_there_comes_back(tmp_path: Path, n_branches: int) -> None:
    trees = tiny.trees(40, n_branches, seed=2)
    shelf = fill(tmp_path, trees, {"rows": 41})
    assert tuple(shelf) == trees
    assert shelf[-1] == trees[-1]
    assert tuple(shelf[3:6]) == trees[3:6]
    assert (len(shelf), shelf.facts) == (40, {"rows": 41})
    with pytest.raises(IndexError):
        shelf[40]


def test_empty_prompts_and_large_ids_are_kept(tmp_path: Path) -> None:
    trees = [Tree((), (Branch((7, 2_000_000_000), (False, True)),)), Tree((1,), (Branch((3,), (True,)),))]
    assert list(fill(tmp_path, trees)) == trees


def test_a_shelf_is_found_again_only_when_it_is_whole(tmp_path: Path) -> None:
    assert found(tmp_path) is None

    def broken() -> Iterator[Tree]:
        yield from tiny.trees(3, 1)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        fill(tmp_path, broken())
    assert found(tmp_path) is None
    fill(tmp_path, tiny.trees(5, 1))
    again = found(tmp_path)
    assert isinstance(again, Shelf)
    assert tuple(again) == tiny.trees(5, 1)
    (tmp_path / WHOLE).write_text("{")
    assert found(tmp_path) is None


def test_facts_may_be_gathered_while_trees_are_drawn(tmp_path: Path) -> None:
    facts: dict[str, int] = {}

    def drawn() -> Iterator[Tree]:
        for n, tree in enumerate(tiny.trees(6, 2), start=1):
            facts["rows"] = n
            yield tree

    assert fill(tmp_path, drawn(), facts).facts == {"rows": 6}
