"""The ledger: what was heard is on the disk, a torn last line is left out, and nothing else is forgiven."""

import json
from dataclasses import replace

import pytest

from posttrain.engine import files
from posttrain.engine.ledger import Entry, Ledger, digest_of
from posttrain.schema.errors import Damaged, DiskFull
from posttrain.schema.rows import Message

HOSTILE = [
    "\x1b[2J\x1b]0;x\x07",
    "<script>alert(1)</script>",
    "\u2028\u2029\r\n\x00\x85",
    "```\n---\n",
    "\ud800",
    "é" * 10**6,
]


def entry(n: int = 0, text: str = "no", **more) -> Entry:
    messages = (Message("user", f"question {n}"),)
    made = Entry("direct", "g", n, "ask", digest_of(messages), tuple(m.as_dict() for m in messages), text, "refused", 3)
    return replace(made, **more)


def test_what_is_added_is_found_by_a_new_ledger(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.add([entry(0), entry(1, kind="write", verdict=None), entry(2, kind="lead", way="a+b", why="too long")])
    again = Ledger(path)
    assert list(again.entries.values()) == list(ledger.entries.values())
    assert again.find(("direct", "g", 1), entry(1).digest) == entry(1, kind="write", verdict=None)


def test_another_move_at_the_same_place_is_not_found(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.add([entry(0)])
    assert ledger.find(("direct", "g", 0), entry(1).digest) is None
    assert ledger.find(("direct", "other", 0), entry(0).digest) is None


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_one_line_and_come_back_as_they_were(tmp_path, text):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).add([entry(0, text), entry(1)])
    raw = path.read_bytes()
    assert len(raw.splitlines()) == 2
    assert raw.isascii()
    assert b"\x1b" not in raw
    assert Ledger(path).entries["direct", "g", 0].text == text


def test_a_line_torn_anywhere_is_left_out_and_the_next_one_follows_the_last_whole(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).add([entry(0), entry(1, "aé\u2028")])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        ledger = Ledger(path)
        assert list(ledger.entries) == [("direct", "g", 0)]
        ledger.add([entry(1, "aé\u2028")])
        assert path.read_bytes() == whole


@pytest.mark.parametrize("bad", [b"{}\n", b"7\n", b"\n", b"\x00\xff\n", b'{"family": "direct"}\n', b"[" * 9999 + b"\n"])
def test_a_bad_line_that_is_not_the_last_is_damage(tmp_path, bad):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).add([entry(0), entry(1)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + bad + lines[1])
    with pytest.raises(Damaged, match="Remove the file"):
        Ledger(path)


def test_a_full_disk_is_said_to_be_one(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    monkeypatch.setattr("posttrain.engine.ledger.os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "full")))
    assert files.is_full(OSError(28, "full"))
    with pytest.raises(DiskFull):
        ledger.add([entry(0)])
    assert ledger.entries == {}


def test_a_digest_tells_roles_and_texts():
    one, other = (Message("user", "a"),), (Message("assistant", "a"),)
    assert len({digest_of(m) for m in (one, other, one + one, (Message("user", "b"),))}) == 4
    assert digest_of(one) == digest_of((Message("user", "a"),))
    assert json.dumps(digest_of(one)).strip('"').isalnum()
