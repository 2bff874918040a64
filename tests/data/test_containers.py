"""Every container gives the same rows, tells where they stand, and says clearly when it cannot be read."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from posttrain.data.containers import BadRow, Record, records
from posttrain.schema.errors import DataError

ROWS = [
    {"prompt": "two\nlines, and a comma", "completion": 'a "quote"'},
    {"prompt": "红 ->", "completion": "rako"},
    {"prompt": "x;y\tz", "completion": "1,080"},
]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS)


def _table(delimiter: str) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return file.getvalue()


def _columns() -> dict[str, list[str]]:
    return {name: [row[name] for row in ROWS] for name in ROWS[0]}


def _parquet() -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(_columns()), sink)
    return sink.getvalue()


def _arrow(write: Callable[..., Any]) -> bytes:
    sink = io.BytesIO()
    table = pa.table(_columns())
    with write(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


CONTAINERS: Mapping[str, bytes] = {
    "lines.jsonl": TEXT.encode(),
    "windows.jsonl": b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n\r\n").encode(),
    "lines.json": TEXT.encode(),
    "lines.txt": TEXT.encode(),
    "no-suffix": TEXT.encode(),
    "lines.jsonl.gz": gzip.compress(TEXT.encode()),
    "gzip-without-its-suffix.jsonl": gzip.compress(TEXT.encode()),
    "list.json": json.dumps(ROWS, indent=2).encode(),
    "list-as.jsonl": json.dumps(ROWS).encode(),
    "marked.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "sixteen.json": json.dumps(ROWS).encode("utf-16"),
    "list.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "columns.json": json.dumps(_columns()).encode(),
    "wrapper.json": json.dumps({"version": 1, "canary": "x", "examples": ROWS}).encode(),
    "table.csv": _table(",").encode(),
    "marked.csv": b"\xef\xbb\xbf" + _table(",").encode(),
    "semicolon.csv": _table(";").encode(),
    "sixteen.csv": _table(",").encode("utf-16"),
    "table.csv.gz": gzip.compress(_table(",").encode()),
    "table.tsv": _table("\t").encode(),
    "table.parquet": _parquet(),
    "parquet-called.json": _parquet(),
    "file.arrow": _arrow(pa.ipc.new_file),
    "stream.arrow": _arrow(pa.ipc.new_stream),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_all_containers_hold_the_same_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(CONTAINERS[name])
    assert [record.columns for record in records(path)] == ROWS


def _read(path: Path, content: str | bytes) -> list[Record | BadRow]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(records(path))


def _error(path: Path, content: str | bytes) -> str:
    with pytest.raises(DataError) as caught:
        _read(path, content)
    return str(caught.value)


def test_rows_by_id_keep_their_id(tmp_path: Path) -> None:
    found = _read(tmp_path / "a.json", '{"q7": {"text": "one"}, "q9": {"text": "two"}}')
    assert [record.columns for record in found] == [{"id": "q7", "text": "one"}, {"id": "q9", "text": "two"}]


def test_one_object_is_one_row_even_with_lists_in_it(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}], "tags": ["a"], "n": 3}
    assert _read(tmp_path / "a.jsonl", json.dumps(row))[0].columns == row


def test_a_list_of_strings_is_text(tmp_path: Path) -> None:
    assert [record.columns for record in _read(tmp_path / "a.json", '["one", "two"]')] == [
        {"text": "one"},
        {"text": "two"},
    ]


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("first line\nsecond line\n", ["first line", "second line"]),
        ("a verse\nof two lines\n\nand another", ["a verse\nof two lines\n\nand another"]),
        ("one\n\nstory<|endoftext|>\nanother<|endoftext|>\n", ["one\n\nstory", "another"]),
    ],
)
def test_documents_of_plain_text(text: str, documents: list[str], tmp_path: Path) -> None:
    assert [record.columns["text"] for record in _read(tmp_path / "a.txt", text)] == documents


def test_a_null_of_arrow_was_never_written(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"prompt": ["a", "b"], "system": [None, "be kind"]}), path)
    assert [record.columns for record in records(path)] == [{"prompt": "a"}, {"prompt": "b", "system": "be kind"}]


def test_places_count_lines_of_the_file_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    found = _read(path, 'prompt,completion\n"one\ntwo\nthree",x\n\nfour,y\n')
    assert [record.place for record in found] == [f"{path}:2", f"{path}:6"]
    path = tmp_path / "a.jsonl"
    assert [record.place for record in _read(path, '{"a": 1}\n\n\n{"a": 2}\n')] == [f"{path}:1", f"{path}:4"]


def test_bad_lines_do_not_hide_the_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    found = _read(path, b'{"a": 1}\n{"a": \n[1, 2]\n{"a": "\xff"}\n{"a": 5}\n')
    assert [type(row) for row in found] == [Record, BadRow, BadRow, BadRow, Record]
    assert [str(row) for row in found if isinstance(row, BadRow)] == [
        f"{path}:2: not JSON: Expecting value at column 7",
        f"{path}:3: a row must be an object with columns, this is a list",
        f"{path}:4: byte 8 is not UTF-8",
    ]


def test_a_table_row_with_another_number_of_cells_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    found = _read(path, 'a,b\n1,2\n1,2,3\n"open,4\n')
    assert str(found[1]) == f"{path}:3: the row has 3 cells, the header 2"
    assert str(found[2]).startswith(f"{path}:4: not a row of CSV")


@pytest.mark.parametrize(
    ("name", "content", "says", "cure"),
    [
        ("a.jsonl", b"", "is empty", "Put rows into it"),
        ("a.json", b" \n\n", "nothing but blanks", "Put rows into it"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "is empty", "Put rows into it"),
        ("a.jsonl.gz", gzip.compress(TEXT.encode() * 50, mtime=0)[:-60], "gzip data is damaged", "Get the file again"),
        ("a.json", b'[{"a": 1},\n {"a": }]', "a.json:2: not JSON", "Mend that line"),
        ("a.json", b'[\n{"a": "\xff"}]', "a.json:2: a byte is not UTF-8", "Save the file as UTF-8"),
        ("a.json", b"[" * 100_000, "JSON that cannot be read", "Write one row a line"),
        ("a.json", b"3", "holds a number and no rows", "Write a list of objects"),
        ("a.json", b'{"a": [1, 2], "b": [1]}', "columns of different lengths: 'a' 2, 'b' 1", "equally long"),
        ("a.txt", b"one\ntwo \xa1\n", "a.txt:2: a byte is not UTF-8", "Save the file as UTF-8"),
        ("a.parquet", b"not parquet", "holds no parquet data", "give it the suffix"),
        ("a.parquet", _parquet()[:-30], "damaged after row 0", "get it again"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd....", "compressed with zstd", "zstd -d"),
        ("a.pdf", b"%PDF-1.7", "a .pdf file holds no rows", ".jsonl, "),
    ],
)
def test_a_file_that_cannot_be_read_says_so_once(
    name: str, content: bytes, says: str, cure: str, tmp_path: Path
) -> None:
    message = _error(tmp_path / name, content)
    assert says in message
    assert cure in message
