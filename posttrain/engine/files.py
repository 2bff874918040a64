"""Files that are whole or absent: hashing, flushing to the disk, replacing in one step, and a full disk put into words."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from posttrain.schema.artifacts import MANIFEST, FileEntry, Model, hash_of
from posttrain.schema.errors import DiskFull, UsageError

MEGABYTE = 1_000_000
WEIGHTS = (".safetensors", ".bin", ".index.json", ".gguf")
DRAFT = re.compile(r"\..+\.\d+")  # `.report.md.4711`: what process 4711 writes before it becomes report.md
FULL = (errno.ENOSPC, errno.EDQUOT)
# Libraries written in Rust and C++ report a full disk as text, without an errno.
FULL_WORDS = ("no space left on device", "os error 28", "disk quota exceeded", "pytorchstreamwriter failed writing")
WAIT = 0.2  # seconds between two looks at a lock that another process holds


def readable(n_bytes: float) -> str:
    """A size as people say it.

    >>> readable(1_234_567)
    '1.2 MB'
    """
    for unit in ("bytes", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def entry(path: Path) -> FileEntry:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return FileEntry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def files_under(folder: Path) -> list[Path]:
    """Every file of an artifact's folder but its manifest, sorted by name."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def scan(folder: Path) -> dict[str, FileEntry]:
    """All files under `folder` by their path inside it, the manifest left out."""
    return {path.relative_to(folder).as_posix(): entry(path) for path in files_under(folder)}


def digest_of(files: Mapping[str, FileEntry]) -> str:
    """The digest that names an artifact: of its files' names and bytes, in whatever order they come."""
    return hash_of({name: file.sha256 for name, file in files.items()})


def sync(paths: Iterable[Path]) -> None:
    """Returns when the files and folders are on the disk, so that a loss of power cannot take them back."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flushes every file under `folder`, then every folder, innermost first."""
    inside = sorted(folder.rglob("*"), reverse=True)
    sync(path for path in inside if path.is_file())
    sync([*(path for path in inside if path.is_dir()), folder])


def replace_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new one, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        sync([draft])
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    sync([path.parent])


@contextmanager
def whole_folder(place: Path, what: str, needed: int = 0) -> Iterator[Path]:
    """A folder to write in that becomes `place` when all went well, and is gone otherwise. Raises UsageError where
    something is there already, and DiskFull."""
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"{place} exists already. Name another folder with `--out FOLDER`, or remove it first.")
    require_room(what, place, needed)
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with room_for(what, draft, needed):
            place.parent.mkdir(parents=True, exist_ok=True)
            _remove_dead(place)
            draft.mkdir()
            yield draft
            sync_tree(draft)
            draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync([place.parent])


def _remove_dead(place: Path) -> None:
    """Removes the drafts of a folder that killed processes left beside it."""
    for draft in place.parent.glob(f".{glob.escape(place.name)}.*"):
        n = draft.name.rpartition(".")[2]
        if draft.is_dir() and n.isdigit() and not _lives(int(n)):
            shutil.rmtree(draft, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSON, one a line. Halves of characters, which no file can hold, become question marks."""
    with path.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def sweep(folder: Path, older_than: float = 0.0) -> None:
    """Removes the drafts that killed processes left in a folder. Where somebody may be writing, say from which age in
    seconds on a draft is nobody's."""
    for draft in filter(lambda path: DRAFT.fullmatch(path.name), folder.glob(".*")):
        with suppress(FileNotFoundError):
            if time.time() - draft.stat().st_mtime >= older_than:
                draft.unlink()


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None) -> Iterator[bool]:
    """Holds the lock of a file; the system lets go of it when the process dies. `waiting` is called again and again while
    somebody else holds it, and may raise; where there is None it is not waited for, and False is given."""
    with room_for("a lock", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with path.open("r") as file:
        while not (held := _try_lock(file.fileno())) and waiting is not None:
            waiting()
            time.sleep(WAIT)
        yield held


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class HashCache:
    """Hashes of big files outside the store, remembered by path, size and time of change."""

    def __init__(self, path: Path):
        self.path = path

    def entry(self, path: Path) -> FileEntry:
        """Size and SHA-256 of a file; read again only when its size or its time of change differs."""
        stat = path.stat()
        if stat.st_size < MEGABYTE:
            return entry(path)
        place, state = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
        known = self._read()
        if known.get(place, [])[:2] != state:
            known[place] = [*state, entry(path).sha256]
            with suppress(OSError):  # a full or read-only disk costs time at the next run, nothing else
                replace_text(self.path, json.dumps(known, indent=1))
        return FileEntry(stat.st_size, str(known[place][2]))

    def _read(self) -> dict[str, list[int | str]]:
        with suppress(OSError, ValueError):
            known = json.loads(self.path.read_text(encoding="utf-8"))
            return known if isinstance(known, dict) else {}
        return {}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that the disk is full."""
    return any(
        getattr(each, "errno", None) in FULL or any(words in str(each).lower() for words in FULL_WORDS)
        for each in _chain(error)
    )


def _disk_of(path: Path) -> Path:
    """The nearest folder that exists, to ask how full its disk is."""
    return next(place for place in (path, *path.parents) if place.is_dir())


def _disk_full(place: Path, what: str, needed: int, more: str) -> DiskFull:
    disk = os.statvfs(_disk_of(place))
    free = disk.f_bavail * disk.f_frsize
    no_more = disk.f_files > 0 and disk.f_favail == 0  # where there is no limit, none are counted
    left = "no more files can be made" if no_more else f"{readable(free)} ({free} bytes) are free"
    return DiskFull(
        f"The disk is full: {what} needs {more} {readable(needed)} ({needed} bytes), and {left} at {place}. Nothing "
        "half-written was kept. Free some space, or name another disk with `--out FOLDER`, and run the same command "
        "again: it continues."
    )


def require_room(what: str, place: Path, needed: int) -> None:
    """Raises DiskFull when fewer than `needed` bytes are free on the disk of `place`."""
    if needed > shutil.disk_usage(_disk_of(place)).free:
        raise _disk_full(place, what, needed, "about")


@contextmanager
def room_for(what: str, place: Path, needed: int = 0) -> Iterator[None]:
    """Turns a full disk, however a library reports it, into DiskFull. `place` is the file or folder being written and
    `needed` its expected size, if known; what had been written in that folder is the least that it can be."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        written = sum(path.stat().st_size for path in files_under(place)) if place.is_dir() else 0
        more = "about" if needed > written else "more than"
        raise _disk_full(place, what, max(needed, written), more) from error


def copy_model(model: Model, folder: Path, weights: bool = True) -> None:
    """The files of a model but for its card: configuration, tokenizer, chat template, prompt program, and its `weights`."""
    for name in sorted(model.files):
        if not name.endswith(("README.md", *(() if weights else WEIGHTS))):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model.path / name, folder / name)
