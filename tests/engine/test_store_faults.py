"""Kills, full disks and two processes on one store."""

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.engine.method import Made
from posttrain.engine.store import Store
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import DiskFull, Stopped

KEY = "00112233445566aa"
BLANK = Model(Path(), "", method="sft")

KILLED_AT_EACH_STEP = textwrap.dedent(
    """
    # Python reports every file operation to its audit hook; the n-th one inside the store is the last that a child does.
    import os, signal, sys
    from pathlib import Path
    from posttrain.engine.method import Made
    from posttrain.engine.store import Store
    from posttrain.schema.artifacts import Model

    root, KEY = Path(sys.argv[1]), "00112233445566aa"
    WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "fcntl.flock", "os.utime"}
    left = -1

    def count(event, arguments):
        global left
        if left > 0 and event in WATCHED:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)

    def work(folder, scratch):
        done = int((scratch / "step").read_text()) if (scratch / "step").exists() else 0
        if done < 2:
            (scratch / "step").write_text("2")
        (folder / "model.safetensors").write_text("weights")
        (folder / "config.json").write_text("{}")
        return Made(facts={"steps": 2})

    def make():
        return Store(root).make(KEY, Model(Path(), "", method="sft"), work)

    kills, n = 0, 1
    base = root
    while True:
        root = base / str(n)
        child = os.fork()
        if child == 0:
            left = n
            make()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            kills += 1
            found = Store(root).find(KEY)
            if found is not None:
                assert (found.path / "model.safetensors").read_text() == "weights"
        Store(root).tidy()
        made = make()
        assert Store(root).find(KEY, verify=True) == made, n
        assert not list((root / "work").iterdir()), n
        assert not (root / "damaged").exists(), n
        if not os.WIFSIGNALED(status):
            break
        n += 1
    print(kills)
    """
)


@pytest.mark.slow
def test_a_kill_between_any_two_steps_costs_nothing(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, tmp_path / "store"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(n_bytes: int):
    def work(folder: Path, scratch: Path) -> Made:
        (scratch / "checkpoint").write_bytes(b"kept")
        for n in range(n_bytes // 100_000):
            (folder / f"part-{n}").write_bytes(bytes(100_000))
        return Made()

    return work


def test_a_disk_that_fills_up_keeps_nothing_half_written(tiny_disk: Path):
    store = Store(tiny_disk / "store")
    with pytest.raises(DiskFull, match=r"`sft` needs more than .*are free.*--out FOLDER.*continues"):
        store.make(KEY, BLANK, fill(4_000_000))
    assert store.find(KEY) is None
    assert not list(store.root.rglob("part-*"))
    assert (store.root / "work" / KEY / "scratch" / "checkpoint").read_bytes() == b"kept"
    assert store.make(KEY, BLANK, fill(300_000)).bytes == 300_000, "the same command continues when there is room"


def test_a_disk_without_any_room_says_so(tiny_disk: Path):
    with pytest.raises(OSError, match="No space"):
        (tiny_disk / "filler").write_bytes(bytes(4_000_000))
    with pytest.raises(DiskFull):
        Store(tiny_disk / "store").make(KEY, BLANK, fill(300_000))


def test_expected_size_is_checked_before_the_work_starts(tmp_path: Path):
    def refuse(folder: Path, scratch: Path) -> Made:
        raise AssertionError("was started")

    with pytest.raises(DiskFull, match=r"needs about 1000000\.0 GB"):
        Store(tmp_path).make(KEY, BLANK, refuse, needs=10**15)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0: file write failed"),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_every_librarys_way_to_say_full_is_understood(tmp_path: Path, error: Exception):
    def work(folder: Path, scratch: Path) -> Made:
        (folder / "part").write_bytes(bytes(1000))
        raise error

    store = Store(tmp_path)
    with pytest.raises(DiskFull, match=r"more than 1\.0 kB \(1000 bytes\)"):
        store.make(KEY, BLANK, work)
    assert not list(tmp_path.rglob("part"))


def test_other_errors_stay_what_they_are(tmp_path: Path):
    def work(folder: Path, scratch: Path) -> Made:
        raise PermissionError(errno.EACCES, "not allowed")

    with pytest.raises(PermissionError):
        Store(tmp_path).make(KEY, BLANK, work)


def slow_make(root: Path, name: str, log: Path, started) -> None:
    def work(folder: Path, scratch: Path) -> Made:
        with log.open("a") as file:
            file.write(f"{name}\n")
        started.set()
        time.sleep(0.5)
        (folder / "model.safetensors").write_text("weights")
        return Made()

    Store(root).make(KEY, BLANK, work)


@pytest.mark.slow
def test_two_processes_make_one_artifact_once(tmp_path: Path):
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    arguments = [(tmp_path / "store", name, tmp_path / "log", started) for name in ("first", "second")]
    processes = [spawn.Process(target=slow_make, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len((tmp_path / "log").read_text().split()) == 1
    assert Store(tmp_path / "store").find(KEY) is not None


@pytest.mark.slow
def test_who_waits_can_be_stopped(tmp_path: Path):
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    process = spawn.Process(target=slow_make, args=(tmp_path / "store", "first", tmp_path / "log", started))
    process.start()
    assert started.wait(60)

    def stop(key: str) -> None:
        raise Stopped(f"waiting for {key}")

    with pytest.raises(Stopped, match=KEY):
        Store(tmp_path / "store", on_wait=stop).make(KEY, BLANK, fill(100_000))
    process.join(60)
    assert process.exitcode == os.EX_OK
