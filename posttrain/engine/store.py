"""The store: artifacts by key, each whole or absent, however the process that makes it ends.

    store/
      sft-4f0c…/           an artifact: its files and posttrain.json; the name ends with its key
      work/KEY/made/       one being written; work/KEY/scratch/ its checkpoints, which outlive a kill
      locks/KEY            held while a process makes KEY; a second process waits and then finds it kept
      noted/KEY/           what a teacher expects of some rows, for every stage that learns them under it
      damaged/             what no longer was what its manifest says
      lab/                 rows of the lab as files           hashes.json   hashes of big files outside the store

An artifact is written under work/, hashed, flushed, given its manifest, flushed, and renamed in one step.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.schema.artifacts import MANIFEST, Artifact, Dataset, Model, from_manifest
from posttrain.schema.errors import Damaged, PosttrainError
from posttrain.schema.settings import Rows

from . import sources
from .environment import environment
from .files import (
    MEGABYTE,
    HashCache,
    digest_of,
    entry,
    locked,
    replace_text,
    require_room,
    room_for,
    scan,
    sweep,
    sync,
    sync_tree,
)

if TYPE_CHECKING:
    from .method import Made

SMALL = 256 * MEGABYTE  # up to here the bytes are hashed on every find; above, sizes are compared
HOUR = 3600.0  # seconds


def _nothing(*_: Any) -> None:
    return None


class Store:
    """All artifacts under one folder. `on_damage` is told of what was moved aside; `on_wait` is called again and again
    while another process makes the same artifact, and may raise to stop waiting."""

    def __init__(
        self,
        root: Path,
        *,
        on_damage: Callable[[str], None] = _nothing,
        on_wait: Callable[[str], None] = _nothing,
    ):
        self.root = Path(root).resolve()
        self.on_damage = on_damage
        self.on_wait = on_wait
        self.hashes = HashCache(self.root / "hashes.json")

    def find(self, key: str, *, verify: bool = False) -> Artifact | None:
        """The artifact of this key, whole and undamaged, else None. `verify` hashes the bytes whatever their size."""
        folder = self._folder(key)
        if folder is None:
            return None
        try:
            return load(folder, verify=verify)
        except Damaged as damage:
            self._put_aside(folder, str(damage))
            return None

    def make(self, key: str, blank: Artifact, work: Callable[[Path, Path], "Made"], *, needs: int = 0) -> Artifact:
        """The artifact of this key, kept or made now by `work(folder, scratch)`.

        `blank` says what it is (class, method, settings, inputs, seed). `needs` is how many bytes it is expected to
        take: with less free, DiskFull is raised before the work starts. What `work` leaves in `scratch` when it fails
        or is killed is handed to the next call with the same key.
        """
        room = self.root / "work" / key
        with self._locked(key):
            kept = self.find(key)
            if kept is None:
                kept = self._make(key, blank, work, room, needs)
            shutil.rmtree(room, ignore_errors=True)
            return kept

    def model(self, name: str) -> Model:
        """A model by name: `lab`, a folder, an artifact of this store by digest, or a Hub id. Raises ModelError."""
        return sources.model(self, name)

    def dataset(self, rows: Rows) -> Dataset:
        """Rows by name: a file, a folder, a glob, `lab:NAME`, or a dataset of this store. Raises DataError."""
        return sources.dataset(self, rows)

    def artifacts(self) -> Iterator[Artifact]:
        """Every artifact that is kept, in the order of making; the bytes are not looked at."""
        for folder in sorted(self.root.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns):
            with suppress(Damaged):
                yield described(folder.parent)

    def lookup(self, prefix: str) -> list[Artifact]:
        """Artifacts whose digest or key starts with `prefix` (six digits at least)."""
        if len(prefix) < 6 or set(prefix) - set("0123456789abcdef"):
            return []
        return [a for a in self.artifacts() if a.digest.startswith(prefix) or a.key.startswith(prefix)]

    def tidy(self) -> None:
        """Removes what killed processes left, except the checkpoints of work that is not finished yet."""
        for room in (self.root / "work").glob("*"):
            with self._locked(room.name, wait=False) as held:
                if held:
                    shutil.rmtree(room if self._folder(room.name) else room / "made", ignore_errors=True)
        for folder in (self.root, *(self.root / "lab").rglob("*/")):
            sweep(folder, older_than=HOUR)

    def _folder(self, key: str) -> Path | None:
        return next(iter(sorted(self.root.glob(f"*-{key}"))), None)

    def _make(
        self, key: str, blank: Artifact, work: Callable[[Path, Path], "Made"], room: Path, needs: int
    ) -> Artifact:
        folder, scratch = room / "made", room / "scratch"
        require_room(f"`{blank.method}`", self.root, needs)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with room_for(f"`{blank.method}`", room, needs):
                folder.mkdir(parents=True)
                scratch.mkdir(exist_ok=True)
                made = work(folder, scratch)
                artifact = self._describe(key, blank, made, folder)
                sync_tree(folder)
                replace_text(folder / MANIFEST, _manifest_text(artifact))
                folder.rename(artifact.path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # a scratch that holds something waits for the next attempt
                scratch.rmdir()
                room.rmdir()
            raise
        sync([self.root])
        return artifact

    def _describe(self, key: str, blank: Artifact, made: "Made", folder: Path) -> Artifact:
        files = scan(folder)
        if not files:
            raise PosttrainError(f"`{blank.method}` wrote no file: a method must write its result into `job.folder`.")
        return replace(
            made.fill(blank),
            path=self.root / f"{_short(blank.method)}-{key}",
            key=key,
            digest=digest_of(files),
            files=files,
            environment=environment(),
        )

    def _put_aside(self, folder: Path, why: str) -> None:
        aside = self.root / "damaged"
        aside.mkdir(exist_ok=True)
        place = next(p for n in range(10**6) if not (p := aside / f"{folder.name}.{n}").exists())
        with suppress(FileNotFoundError):  # another process was quicker
            folder.rename(place)
            self.on_damage(f"{why} It was moved to {place} and is made again.")

    @contextmanager
    def _locked(self, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Holds the lock of a key; the system lets go of it when the process dies. Gives False when not waiting and
        somebody else holds it."""
        path = self.root / "locks" / key
        with room_for("a lock", path):
            (self.root / "work").mkdir(parents=True, exist_ok=True)
        with locked(path, partial(self.on_wait, key) if wait else None) as held:
            yield held


def _short(method: str) -> str:
    """`my_package.losses:Mine` -> `mine`: the part of a method's name that may stand in a file name."""
    return method.rpartition(":")[2].lower()


def _manifest_text(artifact: Artifact) -> str:
    """The manifest as it is stored. A base inside the same store is named relative to it, so a store can be moved."""
    manifest = artifact.manifest()
    base = manifest.get("base")
    if base and Path(base).resolve().parent == artifact.path.parent:
        manifest["base"] = os.path.join("..", Path(base).name)
    return json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def described(folder: Path) -> Artifact:
    """The artifact that a folder's manifest describes; its files are not looked at. Raises Damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        artifact = from_manifest(folder.resolve(), manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder} has no readable {MANIFEST} ({error}).") from error
    if isinstance(artifact, Model) and artifact.base and artifact.base.startswith(".."):
        return replace(artifact, base=str((folder / artifact.base).resolve()))
    return artifact


def load(folder: Path, *, verify: bool = False) -> Artifact:
    """The artifact in a folder, its files compared with its manifest: sizes always, bytes when small or to `verify`.

    Raises Damaged, which names the first file that differs.
    """
    artifact = described(folder)
    hashed = verify or artifact.bytes <= SMALL
    for name, expected in artifact.files.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{folder} is damaged: {name} is missing.")
        size = path.stat().st_size
        if size != expected.bytes:
            raise Damaged(f"{folder} is damaged: {name} has {size} bytes instead of {expected.bytes}.")
        if hashed and entry(path).sha256 != expected.sha256:
            raise Damaged(f"{folder} is damaged: the bytes of {name} are not those that were written.")
    return artifact
