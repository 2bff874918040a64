"""Whatever stands in a file, reading ends with rows or with one DataError that ends with a cure."""

import gzip
import io
import json
import random
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.data.filters import text_in
from posttrain.data.read import read
from posttrain.schema.artifacts import Dataset
from posttrain.schema.errors import DataError
from posttrain.schema.rows import (
    Conversation,
    Labelled,
    Pair,
    Prompt,
    Row,
    Text,
    Tokenised,
    TokenisedPair,
    fingerprint,
    messages_in,
)

PLACE = r"{}(:\d+|, row \d+|, document \d+): ."
INSTEAD: dict[type[Row], Any] = {
    Text: Text | Tokenised,
    Conversation: Conversation | Tokenised,
    Pair: Pair | TokenisedPair,
}
SHAPES: tuple[type[Row], ...] = (Text, Conversation, Pair, Labelled, Prompt)
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".jsonl.gz", ".jsonl.zst", "")
often = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

columns = st.sampled_from(
    "messages conversations prompt instruction input output completion chosen rejected label text history system "
    "answer plain task tools answers scores completions labels margin probability input_ids completion_mask "
    "attention_mask prompt_ids chosen_ids rejected_ids chat_template_kwargs rejected_response".split()
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
        key: leaves | st.sampled_from(["user", "assistant", "gpt", "function_call", "tool"])
        for key in "role from content value tool_calls name type text human assistant weight masked".split()
    },
)
cells = st.recursive(
    leaves | turns | st.lists(turns, max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=6
)
rows = st.dictionaries(columns, cells, max_size=5)


def _ends_well(path: Path, shape: type[Row]) -> None:
    """Rows of the shape asked for, whose texts can be hashed and written; or an error with a cure."""
    _ended(Dataset(path, "0"), shape)


def _ended(data: Dataset, shape: type[Row]) -> str:
    """How reading ended: with `rows`, with a file that is `refused`, or with `bad rows`, each with its place."""
    try:
        reading = read(data, shape)
    except DataError as error:
        message = str(error)
        assert str(data.path) in message
        assert message.endswith((".", "?")), "the cure is a sentence"
        if "cannot be read:\n" not in message:
            return "refused"
        places = [line for line in message.splitlines()[1:-1] if not line.startswith("… and ")]
        assert places
        assert all(re.match(PLACE.format(re.escape(str(data.path))), line) for line in places), message
        return "bad rows"
    assert reading.rows
    for row in reading.rows:
        assert isinstance(row, INSTEAD.get(shape, shape))
        assert fingerprint(row)
        assert text_in(row).encode().decode() == text_in(row)
        assert all(json.dumps(message.as_dict()) for message in messages_in(row))
    return "rows"


@pytest.mark.slow
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


def _zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, "zstd", asbytes=True))


def _csv(table: list[dict[str, Any]]) -> bytes:
    return b"prompt,completion\n" + b"".join(f'"{r["prompt"]}",{r["completion"]}\n'.encode() for r in table)


WHOLE = [{"prompt": f"question {n}\nof two lines", "completion": "answer"} for n in range(40)]
WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "a.jsonl": _lines,
    "a.json": lambda table: json.dumps(table).encode(),
    "a.jsonl.gz": lambda table: gzip.compress(_lines(table), mtime=0),
    "a.jsonl.zst": lambda table: _zstd(_lines(table)),
    "a.csv": _csv,
    "a.parquet": _parquet,
    "a.arrow": _arrow,
}


@pytest.mark.slow
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


CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TURNS = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": [{"type": "text", "text": "what is 1 + 1?"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "2"},
    {"role": "assistant", "content": "two", "weight": 1},
]
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
LIKE: tuple[dict[str, Any], ...] = (
    {"messages": TURNS, "tools": [{"name": "add", "parameters": {"type": "object"}}], "task": "sum"},
    {"conversations": SHAREGPT, "system": "be kind", "tools": "[]"},
    {"instruction": "add", "input": "1 and 1", "output": "two", "history": [["hi", "hello"]]},
    {"prompt": "hi", "chosen": "hello", "rejected": "go away", "margin": 1.5},
    {"prompt": "hi", "chosen": "hello", "rejected": "go away", "probability": 0.7},
    {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "go away"}},
    {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go away"},
    {"prompt": "hi", "completion": "hello", "label": True},
    {"prompt": "hi", "responses": ["hello", "go away", "no"], "scores": [3, 1, 1.5]},
    {"prompt": "hi", "completions": ["one", "two"], "labels": [True, False]},
    {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [1, 1, 1]},
    {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]},
    {"text": "Once upon a time.\n\nThe end.", "id": 7},
    {"question": "1 + 1?", "answer": "2", "plain": "1 + 1 =", "more": {"deep": [1, {"er": None}]}},
)
JUNK: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1.5,
        float("nan"),
        float("inf"),
        10**30,
        "",
        " ",
        "\x00",
        "\ud83d",
        "\u202e\x1b[2J",
        "[{",
        "{}",
    ),
    *([], {}, [None], [[]], {"": None}, [{"role": "user"}], {"role": "user", "content": "x"}, "x" * 5000),
)


def _replaced(value: Any, draw: random.Random) -> Any:
    """A JSON value with something wrong somewhere inside."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        kept = {name: inner for name, inner in value.items() if name != key}
        return draw.choice([kept, {**kept, key + "?": value[key]}, {**value, key: _replaced(value[key], draw)}])
    if isinstance(value, list) and value and draw.random() < 0.8:
        n = draw.randrange(len(value))
        return value[:n] + draw.choice([[], [_replaced(value[n], draw)], [value[n]] * 2]) + value[n + 1 :]
    nested: Any = draw.choice(JUNK)
    for _ in range(draw.choice([0, 0, 0, 1, 3, 300])):
        nested = draw.choice([[nested], {"role": nested}])
    return nested


def _damaged(content: bytes, draw: random.Random) -> bytes:
    """Bytes with something wrong somewhere."""
    at, to = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    broken = (
        b"\xff",
        b"\x00",
        b"\n",
        b"\r\n",
        b'"',
        b"{",
        b"}",
        b",",
        b"\t",
        b"[" * 3000,
        b"A" * 1_500_000,
        b"\xed\xa0\x80",
    )
    return draw.choice(
        [
            content[:at],  # cut off
            content[at:],
            content[:at] + content[to:],  # a piece lost
            content[:to] + content[at:],  # a piece twice
            content[:at] + draw.choice(broken) + content[at:],
            bytes(byte if draw.random() > 0.01 else draw.randrange(256) for byte in content),
            b"\xef\xbb\xbf" + content,
            content.replace(b"\n", b"\r\n"),
            content.decode("utf-8", "replace").encode("utf-16"),
        ]
    )


def _columns(table: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in table] for name in dict.fromkeys(name for row in table for name in row)}


def _delimited(table: list[dict[str, Any]], delimiter: str) -> bytes:
    columns = _columns(table)
    cells = [[*columns], *([row.get(name) for name in columns] for row in table)]
    written = [[c if isinstance(c, str) else json.dumps(c) for c in row] for row in cells]
    lines = [delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in written]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _packed_columns(table: list[dict[str, Any]], write: Callable[[list[dict[str, Any]]], bytes]) -> bytes:
    """Rows as Arrow holds them; as JSON text where their types are too different for one column."""
    try:
        return write(table)
    except (pa.ArrowException, OverflowError, UnicodeError, ValueError):
        return write([{name: json.dumps(cell) for name, cell in row.items()} for row in table])


MUTATED: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "a.jsonl": _lines,
    "b.json": lambda table: json.dumps(table).encode(),
    "c.json": lambda table: json.dumps(table, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass"),
    "d.json": lambda table: json.dumps(_columns(table)).encode(),
    "e.json": lambda table: json.dumps({"version": 1, "data": {"rows": table}}).encode(),
    "f.json": lambda table: json.dumps({f"q{n}": row for n, row in enumerate(table)}).encode(),
    "g.csv": lambda table: _delimited(table, ","),
    "h.tsv": lambda table: _delimited(table, "\t"),
    "i.txt": lambda table: "\n".join(map(str, table)).encode("utf-8", "surrogatepass"),
    "j.parquet": lambda table: _packed_columns(table, _parquet),
    "k.arrow": lambda table: _packed_columns(table, _arrow),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": _zstd}
SECONDS = 20
"""The longest that reading one file may take; most take milliseconds."""


def _mutated_file(folder: Path, draw: random.Random) -> Path:
    table = [dict(draw.choice(LIKE))] * draw.choice([1, 2, 5, 150])
    for _ in range(draw.choice([0, 1, 1, 3])):
        n = draw.randrange(len(table))
        table[n] = changed if isinstance(changed := _replaced(table[n], draw), dict) else {"text": changed}
    name, packing = draw.choice(list(MUTATED)), draw.choice(["", "", ".gz", ".zst"])
    content = MUTATED[name](table)
    content = _damaged(content, draw) if draw.random() < 0.5 else content
    content = PACKED[packing](content)
    path = folder / f"{name}{packing}"
    path.write_bytes(_damaged(content, draw) if draw.random() < 0.2 else content)
    return path


def _on_time(data: Dataset, shape: type[Row]) -> str:
    """How reading ended, within SECONDS."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"{data.path} was not read in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return _ended(data, shape)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(300), pytest.param(range(300, 2300), marks=pytest.mark.slow)], ids=len)
def test_mutated_files_end_in_rows_or_in_an_error_that_says_where(seeds: range, tmp_path: Path) -> None:
    """Reads each file in every shape, once stopping at bad rows and once skipping them."""
    ends: Counter[str] = Counter()
    for seed in seeds:
        draw = random.Random(seed)
        path = _mutated_file(tmp_path, draw)
        for shape in SHAPES:
            ends[_on_time(Dataset(path, "0"), shape)] += 1
            same, part = draw.choice([None, "exact", "near"]), draw.choice(["", "", "train"])
            skipping = _on_time(Dataset(path, "0", on_bad_row="skip", deduplicate=same, part=part), shape)
            assert skipping != "bad rows"
            ends[skipping] += 1
        path.unlink()
    for end, least in {"rows": 0.7, "bad rows": 0.2, "refused": 2}.items():
        assert ends[end] > least * len(seeds), "the files are neither all good nor all bad"


def test_a_column_without_a_name_plays_no_role(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",prompt,completion\n0,hi,hello\n")
    (row,) = read(Dataset(path, "0"), Conversation).rows
    assert [message.content for message in row.messages] == ["hi", "hello"]
