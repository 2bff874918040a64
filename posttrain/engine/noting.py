"""What a teacher expects at every learnt token, asked once and noted on the disk: the `k` likeliest tokens, their
log-probabilities, and the log of what is left for all others.

    noted/KEY/tokens.bin    a record for each learnt token, row after row     ids (k,) u16 or u32 | logps (k,) f16 | rest f16
    noted/KEY/done.json     how many of these there are, after every group of rows that is on the disk

The key is that of the rows, the teacher, k, the temperature and how it was computed. Rows are asked in their own order, in
groups that do not depend on where a run was killed, so that the next one goes on behind what is done, to the same bytes.
Notes lie in the store and outlive the stage: another student of the same teacher and rows asks nothing again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree
from posttrain.functional.top_k import TopK, exact
from posttrain.models.expected import Noted
from posttrain.models.policy import Policy
from posttrain.models.vocabulary import n_rows
from posttrain.schema.artifacts import hash_of

from .files import locked, replace_text, require_room, room_for, sync
from .job import Job
from .reference import name_of

AT_ONCE = 256  # rows of a group
SCHEMA = 1
U16 = 1 << 16
TOKENS, DONE = "tokens.bin", "done.json"
NOTHING = (0, 0)
WHAT = "what the teacher expects"


@dataclass(frozen=True)
class Asking:
    """What is asked of a teacher: its `top` likeliest of the first `most` tokens, or of those that its head has, with logits
    divided by `temperature`. `teacher` is its digest; `load` brings it into memory, where something is not noted yet."""

    load: Callable[[], Policy]
    teacher: str
    top: int
    most: int
    temperature: float
    dtype: str
    micro_tokens: int

    @cached_property
    def loaded(self) -> Policy:
        """The teacher in memory."""
        return self.load()

    @property
    def rows(self) -> int:
        """Of how many tokens both know what to expect."""
        return min(self.most, n_rows(self.loaded.model))

    def record(self, rows: int) -> np.dtype[Any]:
        """What is noted of a token."""
        ids, k = "<u2" if rows <= U16 else "<u4", min(self.top, rows)
        return np.dtype([("ids", ids, (k,)), ("logps", "<f2", (k,)), ("rest", "<f2")])

    def expects(self, trees: Sequence[Tree], deep: bool = False) -> Noted:
        """What would be noted of some rows, asked now."""
        teacher = self.loaded
        with torch.no_grad(), teacher.precision():
            found = teacher.expects(trees).top_k(self.top, self.rows, self.temperature)
        return Noted(found, self.rows)

    def answers(self, trees: Sequence[Tree]) -> NDArray[Any]:
        """The records of all learnt tokens of some rows, in their order."""
        parts = []
        for micro in Batch(tuple(trees)).split(self.micro_tokens):
            top = self.expects(micro.trees).top
            parts.append(np.empty(len(top.rest), self.record(self.rows)))
            for name, values in top._asdict().items():
                parts[-1][name] = values.cpu().numpy()
        return np.concatenate(parts)

    def key(self, names: Sequence[bytes]) -> str:
        """What tells these rows, asked so, from any others."""
        told = hashlib.sha256(b"".join(names)).hexdigest()
        how = [self.top, self.most, self.temperature, self.dtype, self.micro_tokens]
        return hash_of([SCHEMA, AT_ONCE, told, self.teacher, *how])


class NotedTeacher:
    """A teacher that answers from its notes, and is not in memory."""

    def __init__(self, folder: Path, asking: Asking, places: Mapping[bytes, tuple[int, int]], device: torch.device):
        self._rows, self._places, self._device = _done(folder)[1], places, device
        self._tokens = np.memmap(folder / TOKENS, asking.record(self._rows), "r")

    def expects(self, trees: Sequence[Tree], deep: bool = False) -> Noted:
        """What was noted of the learnt tokens of rows, in the order of these. Raises KeyError for a row that is not there."""
        places = (self._places[name_of(tree)] for tree in trees)
        record = np.concatenate([self._tokens[start:end] for start, end in places])
        ids, logps, rest = (
            torch.from_numpy(record[name].astype(kind)).to(self._device)
            for name, kind in (("ids", np.int64), ("logps", np.float32), ("rest", np.float32))
        )
        return Noted(exact(TopK(ids, logps, rest)), self._rows)

    def facts(self) -> dict[str, float]:
        """What an artifact records of the notes; `rest` is what the teacher gave to tokens that are not noted, on average."""
        rest = float(np.exp(self._tokens["rest"].astype(np.float32)).mean())
        return {"tokens": len(self._tokens), "bytes_per_token": self._tokens.itemsize, "rest": rest}


def noted(asking: Asking, asked: Sequence[Sequence[Tree]], device: torch.device, job: Job) -> NotedTeacher:
    """The teacher as its notes of rows with one answer each, which are written where they are not there. Raises Stopped
    when the job is asked to stop: what is noted stays."""
    places: dict[bytes, tuple[int, int]] = {}
    groups: list[tuple[Sequence[Tree], list[int]]] = []  # rows, and which of them are new
    n = 0
    for trees in asked:
        for start in range(0, len(trees), AT_ONCE):
            some, new = trees[start : start + AT_ONCE], []
            for i, tree in enumerate(some):
                (branch,) = tree.branches
                if (name := name_of(tree)) not in places:
                    places[name] = n, n + branch.n_trained()
                    n = places[name][1]
                    new.append(i)
            groups.append((some, new))
    folder = (job.shared or job.scratch) / "noted" / asking.key(list(places))
    with locked(folder.with_suffix(".lock"), job.check), room_for(WHAT, folder):
        _write(folder, asking, groups, n, job)
    return NotedTeacher(folder, asking, places, device)


def _write(folder: Path, asking: Asking, groups: Sequence[tuple[Sequence[Tree], list[int]]], n: int, job: Job) -> None:
    """Goes on behind what is whole, group by group, until all `n` tokens are noted."""
    done, _ = _done(folder)
    if not done and (folder / TOKENS).exists():
        job.note("what was noted of the teacher before cannot be read: it is asked again")
    if done == n:
        job.note(f"what the teacher expects of {n:,} tokens is on the disk: it is not asked again")
        return
    size = asking.record(asking.rows).itemsize
    require_room(WHAT, folder, (n - done) * size)
    folder.mkdir(parents=True, exist_ok=True)
    job.note(f"the teacher is asked about {n - done:,} tokens, which take {size} bytes each")
    with (folder / TOKENS).open("ab") as file:
        file.truncate(done * size)
        before = 0
        for some, new in groups:
            trees = [some[i] for i in new]
            before += sum(tree.branches[0].n_trained() for tree in trees)
            if before <= done or not trees:
                continue
            file.write(asking.answers(trees).tobytes())
            file.flush()
            sync([folder / TOKENS])
            replace_text(folder / DONE, json.dumps({"tokens": before, "rows": asking.rows, "bytes": before * size}))
            job.emit("progress", step=before, of=n)
            if before < n:
                job.check()


def _done(folder: Path) -> tuple[int, int]:
    """How many tokens are noted for sure, and of how many the likeliest; none where what says so is damaged, or says more than
    there is."""
    try:
        told = json.loads((folder / DONE).read_text(encoding="utf-8"))
        whole = (folder / TOKENS).stat().st_size >= told["bytes"]
        return (int(told["tokens"]), int(told["rows"])) if whole else NOTHING
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return NOTHING
