"""A sandbox: code that nobody has read is run with tests on it, in a Python process of its own, within limits.

Walls, which code cannot get over, on Linux (see `walls` for where each of them stands):
    time on the clock, CPU time, memory; nothing is written, started or signalled; no network; nothing is read but Python
    itself, so no file of the user and no environment of another process; no environment and no open file is inherited;
    the whole group of processes is killed at the end, and dies with this one; output goes nowhere.
Fences, which honest mistakes do not get over, and whoever digs in the interpreter may:
    that the tests have passed. Tests and answer share one interpreter, as tests call the answer's functions. The proof of
    passing is a secret that the process is told after the answer's own code has run, so that leaving early, with any exit
    code, or printing anything proves nothing; an object that claims to equal everything passes a test of equality, and
    code that searches the frames of its callers while it is tested can find the secret.
    Elsewhere than on Linux all but the limits is a fence: an audit hook that refuses what Python can be seen to do.
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import IO

from posttrain.schema.errors import MachineError

from .jail import SECRET

JAIL = Path(__file__).with_name("jail.py")
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "1"}
"""All of it. Sets have the same order in every run, and threads take no memory before they use it."""
STARTING = 60  # seconds that a process may take until the walls stand, on a machine with much to do
MOST_READ = 4096  # bytes


@dataclass(frozen=True)
class Outcome:
    """Whether the tests passed; where they did not, `said` is a line of why, which code may have written itself."""

    passed: bool
    said: str = ""


@dataclass(frozen=True)
class Sandbox:
    """Limits: CPU time and time on the clock in seconds, memory in MiB; `workers` processes at once, as many as there are
    cores if None."""

    seconds: int = 5
    wall_seconds: float = 10.0
    memory_mb: int = 512
    workers: int | None = None

    def run(self, code: str, tests: str) -> Outcome:
        """Runs code and then tests in its module. Raises MachineError where no process can be started."""
        with self._started() as (child, _):
            return self._examine(child, code, tests, time.monotonic() + self.wall_seconds)

    def run_all(self, pairs: Iterable[tuple[str, str]]) -> list[Outcome]:
        """The outcome of each (code, tests), in order."""
        with ThreadPoolExecutor(self.workers or _cores()) as pool:
            return list(pool.map(lambda pair: self.run(*pair), pairs))

    @contextmanager
    def _started(self) -> Iterator[tuple["subprocess.Popen[bytes]", list[str]]]:
        """A process behind its walls, and which those are. It works in an empty folder that is no more."""
        limits = map(str, (self.seconds, self.memory_mb, STARTING + int(self.wall_seconds) + 1))
        with tempfile.TemporaryDirectory(prefix="posttrain-sandbox-") as empty:
            child = _start([sys.executable, "-S", "-s", "-P", "-B", str(JAIL), *limits], empty)
            try:
                walls = _line(child, time.monotonic() + STARTING)
            except TimeoutError:
                walls = b""
            except BaseException:
                _kill(child)
                raise
        with child:
            try:
                if not walls.endswith(b"\n"):
                    raise MachineError(_no_start(child))
                yield child, walls.decode().split()
            finally:
                _kill(child)

    @staticmethod
    def _examine(child: "subprocess.Popen[bytes]", code: str, tests: str, end: float) -> Outcome:
        secret = token_hex(SECRET // 2).encode()
        try:
            _send(child, _message(code), end)
            said = _line(child, end)
            if said != b"ready\n":
                return _failed(child, said)
            _send(child, secret + _message(tests), end)
            said = _line(child, end)
            if said == secret + b"\n" and not _line(child, end):
                _kill(child)
                return Outcome(child.returncode == 0)
            return _failed(child, said.replace(secret, b""))
        except TimeoutError:
            return Outcome(False, "out of time")


@cache
def walls() -> tuple[str, ...]:
    """The walls that stand on this machine, by their names in `walls`. Raises MachineError where the sandbox does not
    work at all: right answers would be marked wrong."""
    sandbox = Sandbox(workers=1)
    right, wrong = sandbox.run("x = 1", "assert x == 1"), sandbox.run("x = 1", "assert x == 2")
    if not right.passed or wrong.passed:
        raise MachineError(
            f"The sandbox does not work here: a right answer ended with {right.said!r}. Score code elsewhere, or give a "
            "function of your own as `package.module:function`."
        )
    with sandbox._started() as (_, stand):
        return tuple(stand)


def _start(command: list[str], folder: str) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd=folder,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        raise MachineError(f"The sandbox cannot start a process ({error}). Use fewer `workers`.") from error


def _message(text: str) -> bytes:
    data = text.encode(errors="replace")
    return b"%08x%s" % (len(data), data)


def _send(child: "subprocess.Popen[bytes]", data: bytes, end: float) -> None:
    """Raises TimeoutError at the `end`, and is silent when nobody listens any more: nothing will come back either."""
    pipe = _pipe(child.stdin)
    os.set_blocking(pipe, False)
    with suppress(BrokenPipeError):
        while data:
            _wait(pipe, select.POLLOUT, end)
            with suppress(BlockingIOError):
                data = data[os.write(pipe, data) :]


def _line(child: "subprocess.Popen[bytes]", end: float) -> bytes:
    """What comes until a line ends, or all does, or it becomes too much. Raises TimeoutError at the `end`."""
    pipe, found = _pipe(child.stdout), b""
    while not found.endswith(b"\n") and len(found) < MOST_READ:
        _wait(pipe, select.POLLIN, end)
        byte = os.read(pipe, 1)
        if not byte:
            break
        found += byte
    return found


def _wait(pipe: int, event: int, end: float) -> None:
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
        raise TimeoutError


def _pipe(stream: IO[bytes] | None) -> int:
    assert stream is not None
    return stream.fileno()


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """Ends the process and all of its group; once it is waited for there is no group that could be another's."""
    if child.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _failed(child: "subprocess.Popen[bytes]", said: bytes) -> Outcome:
    _kill(child)
    if not said and child.returncode < 0:
        return Outcome(False, f"ended by signal {-child.returncode}")
    return Outcome(False, said.decode(errors="replace").strip() or "left before the tests were done")


def _no_start(child: "subprocess.Popen[bytes]") -> str:
    _kill(child)
    return (
        f"The sandbox cannot start {sys.executable} without its environment: it ended with {child.returncode}. Use a Python "
        "that needs none, or more `memory_mb`."
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
