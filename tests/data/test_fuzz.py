"""Whatever stands in a file, reading ends with rows or with one DataError that ends with a cure."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.data.read import read
from posttrain.schema.artifacts import Dataset
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Labelled, Pair, Prompt, Row, Text, fingerprint

SHAPES: tuple[type[Row], ...] = (Text, Conversation, Pair, Labelled, Prompt)
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".jsonl.gz", "")
often = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

columns = st.sampled_from(
    "messages conversations prompt instruction input output completion chosen rejected label text history system "
    "answer plain task".split()
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.text('Human:\nAssistant {["', max_size=40)
)
turns = st.fixed_dictionaries(
    {},
    optional={
        key: leaves | st.sampled_from(["user", "assistant", "gpt"]) for key in ("role", "from", "content", "value")
    },
)
cells = st.recursive(
    leaves | turns | st.lists(turns, max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=6
)
rows = st.dictionaries(columns, cells, max_size=5)


def _ends_well(path: Path, shape: type[Row]) -> None:
    """Rows of the shape asked for, whose texts can be hashed and written; or an error with a cure."""
    try:
        reading = read(Dataset(path, "0"), shape)
    except DataError as error:
        assert str(path) in str(error)
        assert str(error).endswith("."), "the cure is a sentence"
    else:
        assert reading.rows
        assert all(isinstance(row, shape) and fingerprint(row) for row in reading.rows)


@often
@given(table=st.lists(rows, min_size=1, max_size=4), shape=st.sampled_from(SHAPES), lines=st.booleans())
def test_any_row(table: list[dict[str, Any]], shape: type[Row], lines: bool, tmp_path: Path) -> None:
    path = tmp_path / ("a.jsonl" if lines else "a.json")
    path.write_text("\n".join(map(json.dumps, table)) if lines else json.dumps(table))
    _ends_well(path, shape)


@often
@given(content=st.binary(max_size=200), suffix=st.sampled_from(SUFFIXES), shape=st.sampled_from(SHAPES))
def test_any_bytes(content: bytes, suffix: str, shape: type[Row], tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    _ends_well(path, shape)


@often
@given(
    document=st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(columns, inner, max_size=3)
    )
)
def test_any_json_document(document: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    for shape in SHAPES:
        _ends_well(path, shape)


def _parquet(table: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(table), sink)
    return sink.getvalue()


def _arrow(table: list[dict[str, Any]]) -> bytes:
    sink, written = io.BytesIO(), pa.Table.from_pylist(table)
    with pa.ipc.new_stream(sink, written.schema) as writer:
        writer.write_table(written)
    return sink.getvalue()


def _lines(table: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def _csv(table: list[dict[str, Any]]) -> bytes:
    return b"prompt,completion\n" + b"".join(f'"{r["prompt"]}",{r["completion"]}\n'.encode() for r in table)


WHOLE = [{"prompt": f"question {n}\nof two lines", "completion": "answer"} for n in range(40)]
WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "a.jsonl": _lines,
    "a.json": lambda table: json.dumps(table).encode(),
    "a.jsonl.gz": lambda table: gzip.compress(_lines(table), mtime=0),
    "a.csv": _csv,
    "a.parquet": _parquet,
    "a.arrow": _arrow,
}


@pytest.mark.parametrize("name", WRITERS)
@often
@given(data=st.data())
def test_damaged_files(name: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(WRITERS[name](WHOLE))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / name
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    _ends_well(path, Conversation)


@pytest.mark.parametrize("name", WRITERS)
def test_whole_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(WRITERS[name](WHOLE))
    assert len(read(Dataset(path, "0"), Conversation).rows) == len(WHOLE)


@pytest.mark.parametrize("depth", [500, 5000, 200_000])
def test_deep_nesting(depth: int, tmp_path: Path) -> None:
    for where in (
        '{"messages": %s}',
        '{"label": %s, "prompt": "a", "completion": "b"}',
        '{"messages": [{"role": %s}]}',
        "%s",
    ):
        path = tmp_path / "a.jsonl"
        path.write_text(where % ("[" * depth + "]" * depth))
        for shape in SHAPES:
            _ends_well(path, shape)


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text\n"' + "word " * 2_000_000 + '"\n')
    assert len(read(Dataset(path, "0"), Text).rows) == 1
