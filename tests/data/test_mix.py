"""What is kept, what is the same, and how sets are mixed: numbers counted by hand."""

import gzip
import io
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from posttrain.data.duplicates import N_SHINGLE, shingles_of, signature
from posttrain.data.mix import counts, mixed, order
from posttrain.data.read import read, stream
from posttrain.schema.artifacts import Dataset
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Pair, Prompt, Text, Tokenised
from posttrain.schema.settings import Rows

RowsFile = Callable[..., Dataset]


def _texts(data: Dataset, **said: Any) -> list[str]:
    return [row.text for row in read(data.read_as(said), Text).rows]


SCORED = (
    {"text": "a", "lang": "en", "score": 3, "keep": True},
    {"text": "bb", "lang": "de", "score": 4.5, "keep": False},
    {"text": "ccc", "lang": "en", "score": "5", "keep": "true"},
    {"text": "dddd", "score": None},
)


@pytest.mark.parametrize(
    ("where", "texts"),
    [
        ({"lang": "en"}, ["a", "ccc"]),
        ({"lang": ["de", "fr"]}, ["bb"]),
        ({"score": {"min": 4}}, ["bb", "ccc"]),
        ({"score": {"min": 3, "max": 4.5}}, ["a", "bb"]),
        ({"score": 5}, ["ccc"]),
        ({"keep": True}, ["a", "ccc"]),
        ({"lang": "en", "score": {"max": 4}}, ["a"]),
    ],
)
def test_rows_are_kept_by_their_columns(where: dict[str, Any], texts: list[str], rows_file: RowsFile) -> None:
    said = Rows(path="a", where=where).reading()
    assert _texts(rows_file(*SCORED), **said) == texts


def test_what_does_not_fit_is_counted(rows_file: RowsFile) -> None:
    data = rows_file(*SCORED).read_as({"where": {"lang": "en"}, "min_chars": 2, "max_chars": 9})
    decision = read(data, Text).decision
    assert decision.startswith("1 row of text (rows.jsonl)")
    assert "2 left out as `lang` does not fit" in decision
    assert "1 left out as shorter than 2 characters" in decision


def test_length_is_that_of_all_texts_of_a_row(rows_file: RowsFile) -> None:
    data = rows_file({"prompt": "hi", "completion": "hello"}, {"prompt": "hi", "completion": "x" * 50})
    rows = read(data.read_as({"max_chars": 20}), Conversation).rows
    assert [len(row.messages[-1].content) for row in rows] == [5]


def test_a_condition_on_a_column_that_is_not_there_is_a_mistake(rows_file: RowsFile) -> None:
    with pytest.raises(DataError, match=r"asks for the column 'langs', which .* does not have\. Did you mean 'lang'\?"):
        read(rows_file(*SCORED).read_as({"where": {"langs": "en"}}), Text)


def test_take_counts_what_is_kept(rows_file: RowsFile) -> None:
    assert _texts(rows_file(*SCORED), where={"lang": "en"}, take=2) == ["a", "ccc"]
    assert _texts(rows_file({"text": "a"}, {"text": "a"}, {"text": "b"}), deduplicate="exact", take=2) == ["a", "b"]


def test_exact_duplicates_are_the_same_to_the_letter(rows_file: RowsFile) -> None:
    data = rows_file(*[{"text": text} for text in ("a", "b", "a", "A", "b")])
    assert _texts(data, deduplicate="exact") == ["a", "b", "A"]
    assert "2 left out as a duplicate" in read(data.read_as({"deduplicate": "exact"}), Text).decision
    asked = rows_file({"prompt": "hi", "id": 1}, {"prompt": "hi", "id": 2}, {"prompt": "ho", "id": 1})
    assert [row.messages[0].content for row in read(asked.read_as({"deduplicate": "exact"}), Prompt).rows] == [
        "hi",
        "ho",
    ]
    ids = rows_file({"input_ids": [1, 2]}, {"input_ids": [1, 2]}, {"input_ids": [2, 1]})
    for how in ("exact", "near"):
        assert read(ids.read_as({"deduplicate": how}), Text).rows == [
            Tokenised((1, 2), (False, True)),
            Tokenised((2, 1), (False, True)),
        ]


def test_shingles_are_the_runs_of_characters() -> None:
    assert len(shingles_of("abcdefgh")) == 1
    assert len(shingles_of("abcdefghij")) == 10 - N_SHINGLE + 1
    assert len(shingles_of("aaaaaaaaaaaaaaaa")) == 1
    assert len(shingles_of("abc")) == len(shingles_of("红")) == 1
    assert np.array_equal(shingles_of("A  Bird\nsings "), shingles_of("a bird sings"))
    assert not np.array_equal(shingles_of("a bird sings"), shingles_of("a bird rings"))
    assert len(shingles_of("")) == 0


def test_signatures_agree_as_often_as_texts_share_shingles() -> None:
    """1,000 characters of which the last n are others: (993 - n) shared shingles of 993 + n."""
    draw = np.random.default_rng(0)
    letters = [chr(0x4E00 + int(c)) for c in draw.permutation(4000)]
    one = "".join(letters[:1000])
    for n in (0, 50, 200, 500):
        other = "".join(letters[: 1000 - n]) + "".join(letters[2000 : 2000 + n])
        shared = np.intersect1d(shingles_of(one), shingles_of(other))
        jaccard = (993 - n) / (993 + n)
        assert len(shared) / len(np.union1d(shingles_of(one), shingles_of(other))) == pytest.approx(jaccard)
        assert np.mean(signature(one) == signature(other)) == pytest.approx(jaccard, abs=0.15)


BEAR = (
    "Once upon a time there was a small bear who lived in a green forest and liked honey very much. Every morning he "
    "walked to the old oak, looked up at the bees and asked them politely for a little of what they had made."
)
SHIP = (
    "A ship sailed over the wide sea for forty days and met no other ship at all, until it rained. Then the captain saw "
    "a light on the water, and he knew that somebody else was out there, as lost as he was himself."
)


def test_near_duplicates_are_left_out(rows_file: RowsFile) -> None:
    """ "The end." adds 9 shingles to about 190: J = 0.95. Half of one story and half of another: J = 1/3."""
    half = BEAR[:100] + SHIP[100:]
    data = rows_file(*[{"text": t} for t in (BEAR, SHIP, BEAR.upper(), BEAR + " The end.", half)])
    kept = read(data.read_as({"deduplicate": "near"}), Text)
    assert [row.text for row in kept.rows] == [BEAR, SHIP, half]
    assert "2 left out as a near duplicate" in kept.decision


def test_short_texts_that_differ_are_both_kept(rows_file: RowsFile) -> None:
    texts = ["2 + 3 = 5", "2 + 3 = 6", "", "我", "你"]
    assert _texts(rows_file(*[{"text": text} for text in texts]), deduplicate="near") == texts


@pytest.mark.parametrize(
    ("sizes", "weights", "epochs", "used"),
    [
        ([10, 20], [None, None], [1, 1], [10, 20]),
        ([10, 20], [None, None], [2.5, 0.5], [25, 10]),
        ([1000, 100], [0.9, 0.1], [1, 1], [900, 100]),  # the small set is used up first
        ([1000, 100], [9, 1], [1, 2], [1000, 111]),  # twice of it would be 200 of 2,000: the large one is used up first
        ([100, 100_000], [3, 1], [1, 1], [100, 33]),
        ([50, 50], [None, 4], [1, 1], [12, 50]),
    ],
)
def test_weights_are_shares_and_epochs_are_limits(
    sizes: list[int], weights: list[float | None], epochs: list[float], used: list[int]
) -> None:
    assert counts(sizes, weights, epochs) == used


def test_no_row_is_used_twice_before_each_was_used_once() -> None:
    drawn = Counter(order([10, 4], [25, 3], seed=1))
    assert sorted(drawn[0, row] for row in range(10)) == [2] * 5 + [3] * 5
    assert sorted(drawn[1, row] for row in range(4)) == [0, 1, 1, 1]
    assert order([10, 4], [25, 3], seed=1) == order([10, 4], [25, 3], seed=1) != order([10, 4], [25, 3], seed=2)
    half = order([1000, 1000], [1000, 1000], seed=3)[:1000]
    assert 400 < sum(which == 0 for which, _ in half) < 600, "the sets are shuffled together"


def test_rows_are_mixed_only_where_something_is_said() -> None:
    assert mixed(["ab", "c"], [None, None], [1, 1], seed=1) == (["a", "b", "c"], [])
    rows, lines = mixed(["ab", "c"], [None, None], [1, 3], seed=1)
    assert Counter(rows) == {"a": 1, "b": 1, "c": 3}
    assert lines == ["mix of 5 rows: 2 of 2 rows (1.00 epochs) + 3 of 1 rows (3.00 epochs)"]
    with pytest.raises(DataError, match=r"Source 2 of 2 gives no row to the mix\. Raise"):
        mixed(["ab", "c"], [None, None], [1, 0.1], seed=1)


BAD = ({"text": "a"}, {"text": ["b"]}, {"text": "c"}, {"txt": "d"})


def test_bad_rows_are_skipped_where_that_is_said_and_named(rows_file: RowsFile) -> None:
    data = rows_file(*BAD)
    with pytest.raises(DataError, match=r"2 rows of .* cannot be read:(.|\n)*leave them out with `on_bad_row: skip`"):
        read(data, Text)
    reading = read(data.read_as({"on_bad_row": "skip"}), Text)
    assert [row.text for row in reading.rows] == ["a", "c"]
    assert reading.n_skipped == 2
    assert reading.skipped == (
        f"{data.path}:2: the column 'text' must be text, this is a list",
        f"{data.path}:4: the column 'text' is missing or null",
    )
    assert f"2 skipped that cannot be read, the first {data.path}:2: " in reading.decision


def test_good_rows_behind_many_bad_ones_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{torn\n" * 300 + '{"text": "a"}\n')
    reading = read(Dataset(path, "0", on_bad_row="skip"), Text)
    assert (len(reading.rows), reading.n_skipped) == (1, 300)
    assert len(reading.skipped) == 21
    assert reading.skipped[-1] == "… and 280 more."
    path.write_text("{torn\n" * 3)
    with pytest.raises(DataError, match=r"There are no rows in .*3 cannot be read, the first .*a\.jsonl:1: not JSON"):
        read(Dataset(path, "0", on_bad_row="skip"), Text)


def test_rows_stream_and_the_decision_comes_last(rows_file: RowsFile) -> None:
    rows = stream(rows_file(*({"text": str(n)} for n in range(9))), Text)
    assert next(rows).text == "0"
    assert rows.tally.rows == 1
    assert [row.text for row in rows] == [str(n) for n in range(1, 9)]
    assert rows.decision() == "9 rows of text (rows.jsonl): text"


def _parquet(texts: list[str]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"text": texts}), sink, row_group_size=1000)
    return sink.getvalue()


def _lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


CONTAINERS: dict[str, Callable[[list[str]], bytes]] = {
    "a.jsonl": _lines,
    "a.json": lambda texts: json.dumps([{"text": text} for text in texts]).encode(),
    "a.csv": lambda texts: ("text\n" + "\n".join(texts)).encode(),
    "a.txt": lambda texts: "\n".join(texts).encode(),
    "a.parquet": _parquet,
    "a.jsonl.gz": lambda texts: gzip.compress(_lines(texts), 1),
    "a.jsonl.zst": lambda texts: bytes(pa.compress(_lines(texts), "zstd", asbytes=True)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTAINERS)
def test_a_stream_holds_a_small_part_of_a_large_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(CONTAINERS[name]([f"{n} " + "word " * 200 for n in range(16_000)]))  # 16 MB
    tracemalloc.start()
    try:
        n = sum(1 for _ in stream(Dataset(path, "0"), Text))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == 16_000
    assert peak < 6e6


def test_a_pair_is_near_another_by_all_its_texts(rows_file: RowsFile) -> None:
    row = {"prompt": BEAR, "chosen": "Yes, he may.", "rejected": "No."}
    data = rows_file(row, {**row, "chosen": "Yes, he may!"}, {**row, "rejected": SHIP})
    assert [r.rejected[0].content for r in read(data.read_as({"deduplicate": "near"}), Pair).rows] == ["No.", SHIP]
