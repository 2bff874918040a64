"""Rows go onto the shelf one by one, are read once, and a mix picks them in the order in which rows would be mixed."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from posttrain.data import planting
from posttrain.data.chat import ChatFormat
from posttrain.data.mix import mixed
from posttrain.data.planting import SAMPLE, Spread, picked, shape_of, shelved
from posttrain.data.trees import grown
from posttrain.schema.artifacts import Dataset
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Row, Text
from tests import tiny

FORM = ChatFormat(tiny.tokenizer())


def texts(folder: Path, name: str, n: int) -> Dataset:
    """Rows of growing length, so that some are several trees of at most 8 tokens."""
    lines = (json.dumps({"text": f"{name} " * (1 + row % 5)}) for row in range(n))
    (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return Dataset(folder, name, files={f"{name}.jsonl": {}})


def unseen(rows: Sequence[Row]) -> None:
    return None


def put(folder: Path, data: Dataset, shape: type[Row] = Text, look: planting.Look = unseen) -> planting.Shelf:
    return shelved(data, shape, FORM, 8, folder / f"shelf-{data.digest}", look)


def test_a_shelf_that_is_there_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = texts(tmp_path, "one", 9)
    first = put(tmp_path, data)

    def never(*_: object) -> None:
        raise AssertionError("the rows are read again")

    monkeypatch.setattr(planting, "stream", never)
    again = put(tmp_path, data)
    assert (list(again), again.facts) == (list(first), first.facts)


def test_rows_are_never_all_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = most = 0
    read = planting.stream

    class Counted(read(texts(tmp_path, "any", 1), Text).__class__):  # type: ignore[misc]
        def __next__(self) -> Row:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__next__()

    def counted(*given: object) -> Row:
        nonlocal alive
        alive -= 1
        return grown(*given)  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(planting, "stream", Counted)
    monkeypatch.setattr(planting, "grown", counted)
    assert len(put(tmp_path, texts(tmp_path, "many", 500)).rows) == 500
    assert most == 1, "each row is on the shelf before the next is read"


@pytest.mark.parametrize(
    ("weights", "epochs"), [([None, None], [1.0, 1.0]), ([0.75, 0.25], [1.0, 2.0]), ([None, None], [0.5, 1.5])]
)
def test_a_mix_of_shelves_is_the_mix_of_their_rows(
    tmp_path: Path, weights: list[float | None], epochs: list[float]
) -> None:
    sets = [texts(tmp_path, "one", 20), texts(tmp_path, "two", 12)]
    planted = picked([put(tmp_path, data) for data in sets], weights, epochs, seed=3)
    rows, lines = mixed([list(planting.stream(data, Text)) for data in sets], weights, epochs, 3)
    assert tuple(planted.trees) == tuple(tree for row in rows for tree in grown(row, FORM, 8, "").trees)
    assert planted.rows == len(rows)
    assert planted.decisions[2:] == tuple(lines)
    assert planted.n_trained == sum(branch.n_trained() for tree in planted.trees for branch in tree.branches)


def test_what_is_meaningless_is_not_on_the_shelf(tmp_path: Path) -> None:
    def look(rows: Sequence[Row]) -> None:
        raise DataError(f"{len(rows)} rows teach nothing")

    data = texts(tmp_path, "one", 7)
    for _ in range(2):  # a second attempt does not find it either
        with pytest.raises(DataError, match="7 rows teach nothing"):
            put(tmp_path, data, look=look)


@pytest.mark.parametrize("n", [1, 399, 400, 401, 5000])
def test_a_sample_is_spread_evenly(n: int) -> None:
    sample = Spread(SAMPLE)
    for row in range(n):
        sample.add(Text(str(row)))
    places = [int(row.text) for row in sample.rows if isinstance(row, Text)]
    assert len(places) == n if n <= 2 * SAMPLE else SAMPLE <= len(places) <= 2 * SAMPLE
    assert len({b - a for a, b in pairwise(places)}) <= 1


def test_the_first_shape_that_fits_is_taken(tmp_path: Path) -> None:
    data = texts(tmp_path, "one", 3)
    assert shape_of(data, (Conversation, Text)) is Text
    assert shape_of(data, (Conversation,)) is Conversation
