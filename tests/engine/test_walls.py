"""The walls by themselves, without the fence before them: what a process can do by system calls alone."""

import errno
import json
import os
import platform
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.engine import walls
from posttrain.engine.walls import ALLOW, CALLS, KILL, LOOKED_AT, MACHINES, REFUSE, numbers, program

ALONE = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
import posttrain.engine.walls as walls
from posttrain.engine.jail import readable
if sys.argv[1] == "without calls":
    walls._calls = lambda libc: False
parent = os.getppid()
stands = walls.build(5, 512, readable())
def tried(call, *given):
    ctypes.set_errno(0)
    return errno.errorcode.get(ctypes.get_errno(), "") if getattr(libc, call)(*given) < 0 else "done"
def dial():
    got = tried("socket", 2, 1, 0)
    if got != "done":
        return got
    return tried("connect", 3, bytes([2, 0, 0, 53, 9, 9, 9, 9]) + bytes(8), 16)
told = {
    "walls": stands,
    "dial": dial(),
    "create": tried("open", b"here", os.O_CREAT | os.O_WRONLY, 0o644),
    "remove": tried("unlink", sys.argv[2].encode()),
    "passwd": tried("open", b"/etc/passwd", 0),
    "environment": tried("open", b"/proc/%d/environ" % parent, 0),
    "library": tried("open", os.path.dirname(os.__file__).encode(), 0),
    "signal": tried("kill", parent, 0),
    "shared": tried("memfd_create", b"x", 0),
    "trace": tried("ptrace", 16, parent, 0, 0),
    "start": tried("execv", b"/bin/true", (ctypes.c_char_p * 2)(b"true", None)),
    "fork": "" if sys.argv[1] == "without calls" else tried("fork"),
}
print(json.dumps(told))
"""


def alone(how: str, tmp_path: Path) -> dict[str, str]:
    """What a process behind the walls can do, by the name of an error or `done`."""
    (tmp_path / "victim").write_text("x")
    script = [sys.executable, "-c", ALONE, how, str(tmp_path / "victim")]
    done = subprocess.run(
        script,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
    return json.loads(done.stdout)


def test_calls_that_reach_outside_are_refused_by_the_kernel(tmp_path: Path) -> None:
    told = alone("with everything", tmp_path)
    if "calls" not in told["walls"]:
        pytest.skip("this kernel has no seccomp for us")
    for name in ("dial", "create", "remove", "signal", "shared", "trace", "start", "fork"):
        assert told[name] == "EPERM", name
    assert told["library"] == "done"


def test_files_are_out_of_reach(tmp_path: Path) -> None:
    told = alone("without calls", tmp_path)
    if "files" not in told["walls"]:
        pytest.skip("this kernel has no Landlock for us")
    for name in ("create", "remove", "passwd", "environment", "start"):
        assert told[name] == "EACCES", name
    assert told["library"] == "done"


def test_without_seccomp_the_network_is_another(tmp_path: Path) -> None:
    told = alone("without calls", tmp_path)
    if "network" not in told["walls"]:
        pytest.skip("this kernel has no user namespaces for us")
    assert told["dial"] == "ENETUNREACH"


def verdict(code: bytes, number: int, machine: int, given: tuple[int, ...] = ()) -> int:
    """What a filter says of one call: classic BPF, as far as the filter uses it."""
    data = struct.pack("iIQ6Q", number, machine, 0, *given, *[0] * (6 - len(given)))
    instructions, at, loaded = list(struct.iter_unpack("HBBI", code)), 0, 0
    while True:
        operation, if_true, if_false, value = instructions[at]
        at += 1
        match operation:
            case 0x20:
                (loaded,) = struct.unpack_from("I", data, value)
            case 0x15:
                at += if_true if loaded == value else if_false
            case 0x45:
                at += if_true if loaded & value else if_false
            case 0x06:
                return value
            case _:
                raise AssertionError(f"instruction {operation:#x}")


@pytest.mark.parametrize("name", MACHINES)
def test_the_filter_on_every_machine(name: str) -> None:
    column, machine = MACHINES[name]
    code = b"".join(program(column, machine, 77))
    of, no = numbers(CALLS + LOOKED_AT, column), REFUSE | errno.EPERM

    def asked(call: str, *given: int) -> int:
        return verdict(code, of[call], machine, given)

    assert [call for call in numbers(CALLS, column) if asked(call) != ALLOW] == []
    assert [n for n in range(600) if n not in of.values() and verdict(code, n, machine) != no] == []
    assert verdict(code, of["read"], machine ^ 1) == KILL
    assert asked("openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOW
    for writing in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND):
        assert asked("openat", 0, 0, writing) == no
    assert asked("clone", 0x3D0F00) == ALLOW  # what libc asks for a thread
    assert asked("clone", 0x1200011) == no  # what it asks for a process
    assert asked("clone3") == REFUSE | errno.ENOSYS
    assert asked("tgkill", 77, 78, 6) == ALLOW and asked("tgkill", 76, 76, 9) == no
    assert asked("prlimit64", 0, 0, 0, 1) == ALLOW
    assert asked("prlimit64", 0, 0, 0x7F0000000000) == asked("prlimit64", 0, 0, 5) == no
    assert asked("ioctl", 1, 0x5401) == ALLOW and asked("ioctl", 0, 0x5412) == no
    assert asked("fcntl", 1, 3) == ALLOW and asked("fcntl", 1, 8) == no
    if name == "x86_64":
        assert asked("open", 0, 0) == ALLOW and asked("open", 0, os.O_CREAT) == no


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the header is that of this machine")
@pytest.mark.parametrize(("column", "header"), [(0, "x86_64-linux-gnu/asm/unistd_64.h"), (1, "asm-generic/unistd.h")])
def test_numbers_are_those_of_the_kernel(column: int, header: str) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip("the headers of Linux are not installed")
    text = path.read_text().replace("__NR3264_fstatat", "__NR_newfstatat").replace("__NR3264_", "__NR_")
    known = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", text))
    for name, number in numbers(CALLS + LOOKED_AT, column).items():
        assert known[name] == str(number), name


def test_what_the_system_does_not_keep_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    def half(which: int, limits: tuple[int, int]) -> None:
        if which == walls.resource.RLIMIT_AS:
            raise ValueError("not here")
        kept.append(which)

    monkeypatch.setattr(walls.resource, "setrlimit", half)
    walls.limit(1, 64)
    assert walls.resource.RLIMIT_CPU in kept and walls.resource.RLIMIT_FSIZE in kept
