"""The ledger of a siege: every answer that was heard, line by line, so that a kill loses none and repeats none.

    {"family", "goal", "n", "kind": "ask" | "lead" | "write", "digest", "messages", "text", "verdict", "n_tokens", "why", "seconds", "way"}

A line is the `n`-th move of one attack on one goal. Whoever goes on after a kill makes the same moves and finds their answers
here; `digest` tells that a move is still the same. A line that a kill tore off at the end is left out.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from posttrain.schema.errors import Damaged
from posttrain.schema.rows import Messages
from posttrain.schema.verdicts import Verdict

from .files import room_for

Kind = Literal["ask", "lead", "write"]
"""An attempt, a turn that only leads up to one, or what the attacker's model wrote."""
Place = tuple[str, str, int]
"""The family of an attack, the goal, and the number of the move."""


@dataclass(frozen=True)
class Entry:
    """A move and what came of it. An answer has a verdict; what the attacker's model wrote has none."""

    family: str
    goal: str
    n: int
    kind: Kind
    digest: str
    messages: tuple[dict[str, Any], ...]
    text: str
    verdict: Verdict | None = None
    n_tokens: int = 0
    why: str = ""
    seconds: float = 0.0
    way: str = ""

    @property
    def place(self) -> Place:
        return self.family, self.goal, self.n


class Ledger:
    """Entries by their place; new ones are on the disk when `add` returns. Raises Damaged for a line, other than the last,
    that is no entry."""

    def __init__(self, path: Path):
        self.path = path
        self.entries: dict[Place, Entry] = {}
        whole = 0
        for line, end in _lines(path):
            entry = _entry(line)
            if entry is None:
                if end < path.stat().st_size:
                    raise Damaged(f"{path} has a line that is no attempt. Remove the file to attack anew.")
                break
            self.entries[entry.place] = entry
            whole = end
        if path.is_file():
            os.truncate(path, whole)

    def find(self, place: Place, digest: str) -> Entry | None:
        """The entry of this move, if it was made before and is the same."""
        entry = self.entries.get(place)
        return entry if entry is not None and entry.digest == digest else None

    def add(self, entries: Iterable[Entry]) -> None:
        new = list(entries)
        with room_for("the ledger", self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(vars(entry)) + "\n" for entry in new)
            file.flush()
            os.fsync(file.fileno())
        self.entries |= {entry.place: entry for entry in new}


def digest_of(messages: Messages) -> str:
    """Twelve hex digits that tell messages from others."""
    spoken = json.dumps([message.as_dict() for message in messages])
    return sha256(spoken.encode()).hexdigest()[:12]


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """The lines of a file, each with the place where it ends."""
    if not path.is_file():
        return
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            yield line, end


def _entry(line: bytes) -> Entry | None:
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
        return Entry(**{**found, "messages": tuple(found["messages"])}) if found is not None else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
