"""The folder of a run: `<recipe>-<n>/` with recipe.yaml, plan.json, events.jsonl, report.md and report.html.

The same recipe continues its folder, whatever its comments say; a different one, or one that another process is
running right now, gets the next number.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from posttrain.engine.files import DRAFT, replace_text, room_for, sweep
from posttrain.schema.errors import UsageError

RECIPE, PLAN, EVENTS, LOCK = "recipe.yaml", "plan.json", "events.jsonl", ".lock"


def check_place(out: Path) -> None:
    """Raises UsageError where no runs can be kept. Nothing is written."""
    place = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not place.is_dir():
        raise UsageError(f"Runs cannot be kept in {out}: {place} is a file. Name a folder with `--out DIR`.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(
            f"Runs cannot be kept in {out}: {place} is not yours to write in. Name another with `--out DIR`."
        )


@contextmanager
def run_folder(out: Path, name: str, digest: str) -> Iterator[Path]:
    """The folder to run a recipe in, locked while inside and free of what a killed run left half-written."""
    with room_for("the run's folder", out / name):
        out.mkdir(parents=True, exist_ok=True)
        held = (_hold(folder) for folder in candidates(out, name, digest))
        lock = next(lock for lock in held if lock is not None)
    with lock:
        folder = Path(lock.name).parent
        sweep(folder)
        yield folder


def candidates(out: Path, name: str, digest: str) -> Iterator[Path]:
    """The folders of this recipe, the latest first, then those of runs that were killed before they began, then new
    ones."""
    numbered = sorted(_numbered(out, name))
    yield from (folder for _, folder in reversed(numbered) if _digest_in(folder) == digest)
    yield from (folder for _, folder in numbered if _is_unused(folder))
    last = numbered[-1][0] if numbered else 0
    yield from (out / f"{name}-{number}" for number in count(last + 1))


def _numbered(out: Path, name: str) -> Iterator[tuple[int, Path]]:
    for folder in out.glob("*"):
        number = re.fullmatch(re.escape(name) + r"-(\d{1,9})", folder.name)
        if number and folder.is_dir():
            yield int(number[1]), folder


def _digest_in(folder: Path) -> str | None:
    with suppress(OSError, ValueError, AttributeError):
        return json.loads((folder / PLAN).read_text(encoding="utf-8")).get("recipe")
    return None


def _is_unused(folder: Path) -> bool:
    """Whether a folder holds nothing but what is there before the plan."""
    return {path.name for path in folder.iterdir() if not DRAFT.fullmatch(path.name)} <= {LOCK, RECIPE}


def _hold(folder: Path) -> TextIO | None:
    """The open lock of a folder, which the system lets go of when the process dies; None when another one holds it."""
    folder.mkdir(exist_ok=True)
    file = (folder / LOCK).open("a")
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def write_plan(folder: Path, text: str, planned: dict[str, Any]) -> None:
    """Stores what is about to be run."""
    plan = json.dumps(planned, indent=1, ensure_ascii=False) + "\n"
    with room_for("the run's folder", folder, len(text) + len(plan)):
        replace_text(folder / RECIPE, text)
        replace_text(folder / PLAN, plan)
