"""Code that misbehaves in every way scores nothing, in bounded time, and leaves nothing behind."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from posttrain.engine import sandbox as module
from posttrain.engine.sandbox import Outcome, Sandbox, walls
from posttrain.schema.errors import MachineError

QUICK = Sandbox(seconds=1, wall_seconds=1.5, memory_mb=256, workers=2)
TOUCHED = Path(tempfile.gettempdir()) / f"touched-by-the-sandbox-{os.getpid()}"

HOSTILE = {
    "an endless loop": "while True: pass",
    "a long sleep": "import time; time.sleep(1000)",
    "much memory at once": "x = [0] * 10**10",
    "much memory by and by": "x = []\nwhile True: x.append('a' * 10**6)",
    "a fork bomb": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "threads without end": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
    "a program": "import subprocess; subprocess.run(['/bin/true'])",
    "a shell": f"import os; os.system('touch {TOUCHED}')",
    "a file": f"open('{TOUCHED}', 'w').write('x')",
    "a file by its descriptor": f"import os; os.open('{TOUCHED}', os.O_CREAT | os.O_WRONLY)",
    "a file beside it": "open('here', 'w').write('x')",
    "a folder": f"import os; os.mkdir('{TOUCHED}')",
    "somebody's file": "open('/etc/passwd').read()",
    "the environment of another": "import os; open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "a socket": "import socket; socket.socket().connect(('127.0.0.1', 9))",
    "a signal": "import os; os.kill(os.getppid(), 15)",
    "a library": "import ctypes; ctypes.CDLL(None).getpid()",
    "leaving": "import os; os._exit(0)",
    "leaving politely": "raise SystemExit(0)",
    "closing what it has": "import os; os.closerange(0, 64)",
    "printing without end": "while True: print('passed' * 10**6)",
    "writing everywhere": "import os\nfor n in range(64):\n  try: os.write(n, b'ready\\n' * 99)\n  except OSError: pass",
    "a deep recursion": "def f(n): return f(n + 1)\nf(0)",
    "a deeper one": "import sys; sys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nf(0)",
    "no Python": "this is no Python",
    "a zero byte": "x = '\0'",
    "an error that does not end": "class E(Exception):\n  def __str__(self):\n    while True: pass\nraise E",
    "a thread that stays": "import threading, time; threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What became of every hostile answer; they run two at a time."""
    os.environ["SECRET_OF_THE_USER"] = "hunter2"
    begun = time.monotonic()
    found = dict(zip(HOSTILE, QUICK.run_all([(code, "assert True") for code in HOSTILE.values()]), strict=True))
    del os.environ["SECRET_OF_THE_USER"]
    assert time.monotonic() - begun < 60
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_it_scores_nothing(name: str, outcomes: dict[str, Outcome]) -> None:
    assert not outcomes[name].passed
    assert 0 < len(outcomes[name].said) < 5000


def test_it_leaves_nothing_behind(outcomes: dict[str, Outcome]) -> None:
    assert not TOUCHED.exists()
    assert not list(Path(tempfile.gettempdir()).glob("posttrain-sandbox-*"))
    if sys.platform.startswith("linux"):
        commands = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
        assert not any(str(module.JAIL).encode() in command for command in commands)


ADD = "def add(a, b):\n    return a + b"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "tests", "passed"),
    [
        (ADD, "assert add(2, 3) == 5", True),
        (ADD, "assert add(2, 3) == 6", False),
        (ADD, "assert add(2, 3) == 5\nassert sub(2, 3) == 5", False),
        (ADD + "\nif __name__ == '__main__':\n    input()", "assert add(1, 1) == 2", True),
        ("import os\ndef add(a, b): os._exit(0)", "assert add(2, 3) == 5", False),
        ("import sys\ndef add(a, b): sys.exit(0)", "assert add(2, 3) == 5", False),
        ("import builtins\nbuiltins.AssertionError = None\ndef add(a, b): return 0", "assert add(2, 3) == 5", False),
        ("import os\nos.read = os.write = os._exit = None\n" + ADD, "assert add(2, 3) == 5", True),
        ("import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): raise OSError", "add(2, 3)", False),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1", "assert P().x == 1", True),
        (
            "import threading\nr = []\nt = threading.Thread(target=r.append, args=(1,))\nt.start()\nt.join()",
            "assert r",
            True,
        ),
        ("import sys; sys.setrecursionlimit(10**4)\ndef f(n): return n and f(n - 1)", "assert f(5000) == 0", True),
        (
            "import json, re, math, random, heapq, decimal, datetime, unittest, zoneinfo",
            "zoneinfo.ZoneInfo('UTC')",
            True,
        ),
        (
            "import os",
            "assert not {k for k in os.environ if 'PYTHON' not in k} - {'MALLOC_ARENA_MAX', 'LC_CTYPE'}",
            True,
        ),
        ("x = '红'", "assert x == '红'", True),
        ("x = 1 #" + "x" * 300_000, "assert x == 1 #" + "y" * 300_000, True),
        ("x = '\ud800'", "assert x == '?'", True),
    ],
)
def test_the_verdict_is_that_of_the_tests(code: str, tests: str, passed: bool) -> None:
    assert QUICK.run(code, tests).passed is passed


def test_sets_have_one_order_in_every_run() -> None:
    said = {QUICK.run("", "raise ValueError(str(set('abcdefgh')))").said for _ in range(3)}
    assert len(said) == 1


def test_what_printing_the_proof_proves() -> None:
    """Whatever is written where the proof is awaited, without having been told it."""
    forged = "import os\ndef add(a, b):\n    for n in range(64):\n        try: os.write(n, {!r} + b'\\n')\n        except OSError: pass\n    os._exit(0)"
    for guess in (b"passed", b"ready", b"", b"0" * 32, b"calls files"):
        assert not QUICK.run(forged.format(guess), "assert add(2, 3) == 5").passed


def test_the_answer_is_told_neither_proof_nor_tests_before_it_has_run() -> None:
    spying = "import select, time\ntime.sleep(0.2)\nseen = select.select([3], [], [], 0)[0]"
    assert QUICK.run(spying, "assert seen == []").passed
    assert QUICK.run("", "import os\nassert os.fstat(3)").passed  # that is where it would have come


def test_open_files_are_not_inherited(tmp_path: Path) -> None:
    opened = [(tmp_path / str(n)).open("w") for n in range(9)]
    for file in opened:
        os.set_inheritable(file.fileno(), True)
    code = "import os\ndef is_open(n):\n    try: return bool(os.fstat(n))\n    except OSError: return False"
    assert QUICK.run(code, "assert [n for n in range(64) if is_open(n)] == [0, 1, 2, 3, 4]").passed
    for file in opened:
        file.close()


def test_many_at_once_keep_their_order() -> None:
    pairs = [(f"x = {n}", "assert x % 2 == 0") for n in range(12)]
    assert [outcome.passed for outcome in QUICK.run_all(pairs)] == [n % 2 == 0 for n in range(12)]
    assert threading.active_count() < 10


def test_the_sandbox_knows_whether_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(walls()) <= {"calls", "files", "network"}
    walls.cache_clear()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(MachineError, match="cannot start /bin/false without its environment: it ended with 1"):
        walls()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(MachineError, match="cannot start a process"):
        walls()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = "from posttrain.engine.sandbox import Sandbox\nprint('go', flush=True)\nSandbox(wall_seconds=60).run('import time; time.sleep(60)', '')"
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert starter.stdout is not None and starter.stdout.readline() == b"go\n"
    time.sleep(0.5)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    if sys.platform.startswith("linux"):
        time.sleep(0.2)
        commands = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
        assert not any(str(module.JAIL).encode() in command for command in commands)
