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

from posttrain.data.containers import Said, records
from posttrain.data.record import BadRow, Record
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


def _zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


CONTAINERS: Mapping[str, bytes] = {
    "lines.jsonl": TEXT.encode(),
    "windows.jsonl": b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n\r\n").encode(),
    "lines.json": TEXT.encode(),
    "lines.txt": TEXT.encode(),
    "no-suffix": TEXT.encode(),
    "lines.jsonl.gz": gzip.compress(TEXT.encode()),
    "gzip-without-its-suffix.jsonl": gzip.compress(TEXT.encode()),
    "lines.jsonl.zst": _zstd(TEXT.encode()),
    "two-frames.jsonl.zst": _zstd(TEXT.encode()[:40]) + _zstd(TEXT.encode()[40:]),
    "zstd-without-its-suffix.json": _zstd(json.dumps(ROWS).encode()),
    "table.csv.zst": _zstd(_table(",").encode()),
    "list.json": json.dumps(ROWS, indent=2).encode(),
    "blanks-before.json": b" " * 200_000 + b"\n" + json.dumps(ROWS).encode(),
    "list-of-lists.json": json.dumps([[row] for row in ROWS]).encode(),
    "viewer.json": json.dumps({"rows": [{"row_idx": n, "row": row} for n, row in enumerate(ROWS)]}).encode(),
    "list-as.jsonl": json.dumps(ROWS).encode(),
    "marked.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "sixteen.json": json.dumps(ROWS).encode("utf-16"),
    "list.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "columns.json": json.dumps(_columns()).encode(),
    "wrapper.json": json.dumps({"version": 1, "canary": "x", "examples": ROWS}).encode(),
    "wrapped-twice.json": json.dumps({"data": {"version": "1", "rows": ROWS}}).encode(),
    "wrapped-and-named.json": json.dumps({"task": "greeting", "examples": ROWS}).encode(),
    "table.csv": _table(",").encode(),
    "marked.csv": b"\xef\xbb\xbf" + _table(",").encode(),
    "semicolon.csv": _table(";").encode(),
    "sixteen.csv": _table(",").encode("utf-16"),
    "table.csv.gz": gzip.compress(_table(",").encode()),
    "table.tsv": _table("\t").encode(),
    "table.parquet": _parquet(),
    "table.parquet.gz": gzip.compress(_parquet()),
    "table.parquet.zst": _zstd(_parquet()),
    "file.arrow.zst": _zstd(_arrow(pa.ipc.new_file)),
    "stream.arrow.gz": gzip.compress(_arrow(pa.ipc.new_stream)),
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


def test_a_part_of_a_document_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"train": [{"text": "a"}], "test": {"q1": {"text": "b"}}}')
    assert [record.columns for record in records(path, Said(part="train"))] == [{"text": "a"}]
    assert [record.columns for record in records(path, Said(part="test"))] == [{"id": "q1", "text": "b"}]
    with pytest.raises(DataError, match=r"has no part 'tests'\. Did you mean 'test'\?"):
        list(records(path, Said(part="tests")))
    (tmp_path / "a.csv").write_text("text\na\n")
    with pytest.raises(DataError, match=r"has no part 'train': only a JSON document .* Leave '#train' out\."):
        list(records(tmp_path / "a.csv", Said(part="train")))


def test_a_dialogue_alone_in_a_document_is_one_row(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    assert [record.columns for record in _read(tmp_path / "a.json", json.dumps(row, indent=1))] == [row]


def test_texts_are_filed_by_id_or_by_category(tmp_path: Path) -> None:
    by_id = {f"behaviour {n}": f"text {n}" for n in range(9)}
    found = _read(tmp_path / "a.json", json.dumps(by_id))
    assert [record.columns for record in found][:2] == [
        {"id": "behaviour 0", "text": "text 0"},
        {"id": "behaviour 1", "text": "text 1"},
    ]
    by_category = {"harm": {"to self": ["one", "two"], "to others": ["three"]}, "fraud": {"tax": ["four"]}}
    found = _read(tmp_path / "b.json", json.dumps(by_category))
    assert [(record.columns["category"], record.columns["text"]) for record in found] == [
        ("harm/to self", "one"),
        ("harm/to self", "two"),
        ("harm/to others", "three"),
        ("fraud/tax", "four"),
    ]
    row = {"goal": "a", "target": "b", "source": "c"}
    assert [record.columns for record in _read(tmp_path / "c.json", json.dumps(row, indent=1))] == [row]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_list_is_read_in_pieces_of_any_size(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "ä红\n" * n, "n": n * 1000} for n in range(20)] + [{"text": '"]', "deep": [[{"a": [1.5, None]}]]}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    monkeypatch.setattr("posttrain.data.json_rows.BLOCK", size)
    assert [record.columns for record in records(path)] == rows
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[42] = lines[42].replace(":", ";")
    path.write_text("\n".join(lines), encoding="utf-8")
    column = lines[42].index(";") + 1
    with pytest.raises(DataError, match=rf"a\.json:43: not JSON: Expecting ':' delimiter at column {column}\."):
        list(records(path))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("goal,target\na,b\n", ["goal", "target"]),
        (",sent_more,sent_less\n0,a,b\n", ["", "sent_more", "sent_less"]),
        ("occupation,share\nnurse,87.5\n", ["occupation", "share"]),
        ("Which is even?,1,2,3,B\nWhich is odd?,2,3,4,B\n", ["1", "2", "3", "4", "5"]),
        ("The capital is,Rome,Paris,A\nThe river is,Rhine,Seine,B\nThe sea is,Red,Black,A\n", ["1", "2", "3", "4"]),
        ('"Write a poem about the sea, the sky and all that is between."\n"Say hi."\n', ["1"]),
        ("yes,yes\nno,maybe\n", ["1", "2"]),
        ("text\nyes\n", ["text"]),
    ],
)
def test_a_header_is_told_from_a_row(content: str, names: list[str], tmp_path: Path) -> None:
    found = _read(tmp_path / "a.csv", content)
    assert all(isinstance(record, Record) and list(record.columns) == names for record in found)
    assert len(found) == content.count("\n") - (names != [str(n) for n in range(1, len(names) + 1)])


def test_a_header_is_what_the_user_says(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("2019,2020\n1,2\n")
    assert [record.columns for record in records(path, Said(header=True))] == [{"2019": "1", "2020": "2"}]
    path.write_text("goal,target\n1,2\n")
    first = next(iter(records(path, Said(header=False))))
    assert isinstance(first, Record)
    assert first.columns == {"1": "goal", "2": "target"}


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


def test_a_null_inside_a_cell_of_arrow_was_never_written(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    tools = [[{"name": "add", "a": 1}], [{"name": "sub", "b": {"c": 2}}]]
    pyarrow.parquet.write_table(pa.Table.from_pylist([{"tools": each} for each in tools]), path)
    assert [record.columns["tools"] for record in records(path)] == tools


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
    assert str(found[1]) == f"{path}:3: the row has 3 cells, the first row 2"
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
        ("a.json", b'[{"a": 1}] {"b": 2}', "a.json:1: not JSON: Extra data at column 12", "Mend that line"),
        ("a.json", b'[{"a": 1}\n {"b": 2}]', "a.json:2: not JSON: Expecting ']' at column 2", "Mend that line"),
        ("a.json", b'[{"a": 1},', "a.json:1: not JSON: Expecting value at column 11", "Mend that line"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd....", "zstd data is damaged", "Get the file again"),
        ("a.jsonl.zst", _zstd(TEXT.encode() * 50)[:-9], "zstd data is damaged", "Get the file again"),
        ("a.json", b'{"train": [{"a": 1}], "test": [{"a": 2}]}', "several lists of rows: train, test", "a.json#train'"),
        ("a.pdf", b"%PDF-1.7", "a .pdf file holds no rows", ".jsonl, "),
    ],
)
def test_a_file_that_cannot_be_read_says_so_once(
    name: str, content: bytes, says: str, cure: str, tmp_path: Path
) -> None:
    message = _error(tmp_path / name, content)
    assert says in message
    assert cure in message
