"""A disk without room: one message and exit code 4, nothing half-written, and the same command goes on later."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.places import STAND_INS, Done, Place, furnish

PAGE = 4096  # bytes that a file takes at least
FOLDER = Path("disk", "runs")


class Disk:
    """A small disk in memory that can be given other limits."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self.mounted = False

    def limit(self, option: str) -> bool:
        """`size=…` in bytes or `nr_inodes=…` in files, 0 for none. Whether it was allowed."""
        if shutil.which("mount") is None:
            return False
        options = f"remount,{option}" if self.mounted else option
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        done = subprocess.run(words, check=False, capture_output=True)
        self.mounted = self.mounted or done.returncode == 0
        return done.returncode == 0

    def renew(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", self.folder], check=True)
            self.mounted = False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    if not disk.limit("size=1m"):
        pytest.skip("mounting a small disk needs root")
    yield disk
    disk.renew()


def check_told_once(done: Done) -> None:
    assert done.code == 4, done.err
    (told,) = (line for line in done.err.splitlines() if line.startswith("error"))
    assert told.startswith("error  The disk is full: ")
    assert "bytes)" in told and ("are free at" in told or "no more files can be made at" in told)
    assert told.endswith("run the same command again: it continues.")
    assert done.err.splitlines()[-1] == told


def check_nothing_is_half_written(place: Place) -> None:
    assert not list(place.store.glob("work/*/made"))
    assert not [path for path in place.runs.rglob(".*") if path.name != ".lock"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "enough"),
    [
        ([f"size={n * PAGE}" for n in range(1, 32, 3)], "size=0"),
        ([f"nr_inodes={n}" for n in range(2, 44, 4)], "nr_inodes=0"),
    ],
    ids=["bytes", "files"],
)
def test_wherever_a_run_finds_the_disk_full(limits: list[str], enough: str, disk: Disk, tmp_path: Path, command):
    """Of room for ever more: for the folder of the run, its events, a lock, each artifact, the report."""
    furnish(tmp_path)
    (tmp_path / "r.yaml").write_text(STAND_INS, encoding="utf-8")
    clean = Place(tmp_path, out=Path("clean"))
    assert command(clean).code == 0
    codes = []
    for limit in limits:
        disk.renew()
        disk.limit(limit)
        place = Place(tmp_path, out=FOLDER)
        done = command(place)
        codes.append(done.code)
        if done.code != 0:
            check_told_once(done)
            check_nothing_is_half_written(place)
        disk.limit(enough)
        assert command(place).code == 0
        assert place.contents() == clean.contents()
        assert [path.name for path in sorted(place.runs.iterdir())] == ["demo-1", "store"]
    assert codes == sorted(codes, reverse=True), "more room is never worse"
    assert (codes[0], codes[-1]) == (4, 0), "from far too little to enough"


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "room"), [(0, 4_000_000), (1000, 1_000_000)], ids=["checkpoint", "weights"])
def test_training_goes_on_when_there_is_room(seconds: int, room: int, disk: Disk, tmp_path: Path, command):
    """A model of 2 MB: its checkpoint takes 6, and is written beside the one before."""
    furnish(tmp_path, hidden_size=128, intermediate_size=512)
    words = (
        "sft",
        "model=./base",
        "data=chat.jsonl",
        "steps=6",
        "batch_size=4",
        "name=demo",
        f"checkpoint_seconds={seconds}",
    )
    clean = Place(tmp_path, words, Path("clean"))
    assert command(clean).code == 0
    weights = (clean.made("sft") / "model.safetensors").stat().st_size
    assert 1.9e6 < weights < 2.6e6
    disk.limit(f"size={room}")
    place = Place(tmp_path, words, FOLDER)
    done = command(place)
    check_told_once(done)
    assert "`sft` needs more than" in done.err
    check_nothing_is_half_written(place)
    assert not list(place.store.glob("sft-*"))
    disk.limit("size=0")
    assert command(place).code == 0
    assert place.contents() == clean.contents()


def test_events_without_room_end_the_run(disk: Disk, tmp_path: Path, command):
    """A thousand points of a curve take more room than everything before them."""
    furnish(tmp_path)
    (tmp_path / "r.yaml").write_text(
        STAND_INS.replace("Tune: {data: chat.jsonl}", "Tune: {data: chat.jsonl, steps: 1000}")
    )
    place = Place(tmp_path, out=FOLDER)
    disk.limit("size=65536")
    done = command(place)
    check_told_once(done)
    assert "the event file needs about" in done.err
    check_nothing_is_half_written(place)
    disk.limit("size=0")
    assert command(place).code == 0
    assert place.events()[-1].kind == "run_finished"


def test_an_error_is_told_though_its_traceback_has_no_room(tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    furnish(tmp_path)
    (tmp_path / "r.yaml").write_text(STAND_INS, encoding="utf-8")
    done = command(Place(tmp_path), "run", "r.yaml", "tune.fail=crash")
    assert done.code == 1
    assert "FileExistsError" in done.err
    assert "Run the same command with `-v` to see the traceback" in done.err
