"""Inside the sandbox: the script that runs an answer's code and then the tests on it. `sandbox` starts it.

    gets     the code, when the walls stand; a secret and the tests, once the code has run and left no thread behind
    gives    the names of the walls, `ready`, and the secret back when the tests have passed; else what went wrong

Before the code runs a fence is put up beside the walls: what an honest answer has no use for is refused with a message.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECRET = 32  # bytes
MOST_SAID = 300  # bytes of what went wrong
REFUSED = ("ctypes.", "gc.get_", "pty.", "resource.", "shutil.", "socket.", "subprocess.", "syslog.", "tempfile.")
REFUSED_CALLS = frozenset(
    """os.chmod os.chown os.exec os.fork os.forkpty os.kill os.killpg os.link os.lockf os.mkdir os.posix_spawn os.remove
    os.removexattr os.rename os.rmdir os.setxattr os.spawn os.symlink os.system os.truncate os.utime signal.pthread_kill
    sys._current_exceptions sys._current_frames""".split()
)
STARTERS = frozenset({"_posixsubprocess", "_multiprocessing", "_ctypes", "_socket"})
"""Modules that act without a word to the fence: refused where no wall stands behind it."""


def main() -> None:
    """Runs one answer. Never returns."""
    import _thread
    import signal

    read, write, leave, threads = os.read, os.write, os._exit, _thread._count
    orders, verdict = os.dup(0), os.dup(1)
    for stream in (0, 1):
        os.dup2(2, stream)  # the answer's own streams lead nowhere
    seconds, memory_mb, lifetime = map(int, sys.argv[1:4])
    signal.alarm(lifetime)  # whatever becomes of who waits for the answer
    walls = _walls(seconds, memory_mb)
    write(verdict, " ".join(walls).encode() + b"\n")
    code = _received(orders, read)
    answer = _module(code)
    sys.addaudithook(_fence(tuple(readable()), "calls" in walls))
    try:
        exec(compile(code, "<answer>", "exec"), answer)
        sys.settrace(None)
        sys.setprofile(None)
        if threads():
            raise RuntimeError("threads are left running")
        write(verdict, b"ready\n")
        secret = read(orders, SECRET)
        exec(compile(_received(orders, read), "<tests>", "exec"), answer)
    except BaseException as error:
        write(verdict, _told(error))
        leave(1)
    write(verdict, secret + b"\n")
    leave(0)


def readable() -> list[str]:
    """What Python needs to read while it runs: its library, and the libraries and tables of the system."""
    own = [os.path.dirname(os.path.realpath(os.__file__)), os.path.join(os.path.realpath(sys.base_prefix), "lib")]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/System/Library"]
    return [*own, *system, "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom"]


def _walls(seconds: int, memory_mb: int) -> list[str]:
    """Builds the walls, whose module is found beside this one for as long as that takes."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from posttrain.engine.walls import build

    sys.path.pop(0)
    stands = build(seconds, memory_mb, readable())
    for name in [name for name in sys.modules if name.partition(".")[0] in ("posttrain", "ctypes", "_ctypes")]:
        del sys.modules[name]
    return stands


def _module(code: bytes) -> dict[str, Any]:
    """The module that an answer is: the main one, and not by the name that starts scripts."""
    from types import ModuleType

    made = ModuleType("answer")
    sys.modules["answer"] = sys.modules["__main__"] = made
    return made.__dict__


def _received(fd: int, read: Callable[[int, int], bytes]) -> bytes:
    """One message: how long it is in eight hexadecimal digits, and as many bytes."""
    left, found = int(read(fd, 8), 16), b""
    while left > len(found):
        part = read(fd, left - len(found))
        if not part:
            raise EOFError("the message ended early")
        found += part
    return found


def _told(error: BaseException) -> bytes:
    """What went wrong, in a line."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:
        text = type(error).__name__
    return text.replace("\n", " ").encode(errors="replace")[:MOST_SAID] + b"\n"


def _fence(readable: tuple[str, ...], walled: bool) -> Callable[[str, tuple[Any, ...]], None]:
    """Refuses what code can be seen to do. `walled` is whether the kernel refuses it too."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    normal, decoded, within = os.path.normpath, os.fsdecode, tuple(f"{path}/" for path in readable)

    def allowed(path: Any) -> bool:
        return isinstance(path, int) or f"{normal(decoded(path))}/".startswith(within)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            refused = bool(flags & writing) or not allowed(path)
        elif event in ("os.listdir", "os.scandir"):
            refused = not allowed("." if given[0] is None else given[0])
        elif event == "import":
            refused = not walled and given[0] in STARTERS
        else:
            refused = event in REFUSED_CALLS or event.startswith(REFUSED)
        if refused:
            raise PermissionError(f"the sandbox refuses {event}")

    return hook


if __name__ == "__main__":
    main()
