"""What holds a process in that runs code nobody has read. Nothing here needs root; what the kernel lacks is left out.

    calls     seccomp: system calls that a computation needs, and no others. No file is opened for writing, nothing is
              started, nobody else is signalled, there are no sockets        Linux on x86-64 and 64-bit ARM
    files     Landlock: nothing can be read but Python itself                Linux from 5.13, where it is turned on
    network   a network of its own with nothing in it, where `calls` is missing and user namespaces are allowed
    limits    CPU time, memory, size of files, open files                    every POSIX system, as far as it keeps them

Tables of system calls: `arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h` of Linux.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

NO_NEW_PRIVILEGES, SECCOMP, DIES_WITH_PARENT = 38, 22, 1  # options of prctl
NEW_USER, NEW_NETWORK, NEW_IPC = 0x10000000, 0x40000000, 0x08000000
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
ALL_OF_FILES, READ_FILE, READ_FOLDER = (1 << 13) - 1, 1 << 2, 1 << 3  # what version 1 of Landlock can refuse

CALLS = """
read 0 63  write 1 64  readv 19 65  writev 20 66  pread64 17 67  close 3 57  close_range 436 436  lseek 8 62
dup 32 23  dup2 33 -  dup3 292 24  pipe 22 -  pipe2 293 59  poll 7 -  ppoll 271 73  select 23 -  pselect6 270 72
fstat 5 80  stat 4 -  lstat 6 -  newfstatat 262 79  statx 332 291  access 21 -  faccessat 269 48  faccessat2 439 439
readlink 89 -  readlinkat 267 78  getcwd 79 17  getdents64 217 61
mmap 9 222  mprotect 10 226  munmap 11 215  mremap 25 216  madvise 28 233  brk 12 214
rt_sigaction 13 134  rt_sigprocmask 14 135  rt_sigreturn 15 139  sigaltstack 131 132  restart_syscall 219 128
futex 202 98  set_robust_list 273 99  rseq 334 293  membarrier 324 283  sched_yield 24 124  sched_getaffinity 204 123
nanosleep 35 101  clock_nanosleep 230 115  clock_gettime 228 113  clock_getres 229 114  gettimeofday 96 169
time 201 -  times 100 153  getpid 39 172  getppid 110 173  gettid 186 178  getuid 102 174  geteuid 107 175
getgid 104 176  getegid 108 177  uname 63 160  sysinfo 99 179  getrlimit 97 163  getrusage 98 165
getrandom 318 278  exit 60 93  exit_group 231 94
"""
"""Calls that are allowed whatever they are given, with their numbers on x86-64 and on 64-bit ARM."""
LOOKED_AT = (
    "open 2 -  openat 257 56  clone 56 220  clone3 435 435  tgkill 234 131  prlimit64 302 261  ioctl 16 29  fcntl 72 25"
)
"""Calls that are allowed by what they are given."""
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Which number of a call, and how the kernel names the machine."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
THREAD = 0x10000  # a clone within the process
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # instructions of the filter


def build(seconds: int, memory_mb: int, readable: Sequence[str]) -> list[str]:
    """Puts every wall around this process that the system has; the names of those that stand."""
    limit(seconds, memory_mb)
    if not sys.platform.startswith("linux"):
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(DIES_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    stands = ["files"] if _files(libc, readable) else []
    if _calls(libc):
        return [*stands, "calls"]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    return [*stands, "network"] if libc.unshare(NEW_USER | NEW_NETWORK | NEW_IPC) == 0 else stands


def limit(seconds: int, memory_mb: int) -> None:
    """Limits that every POSIX system knows; one that it does not keep is passed over."""
    memory = memory_mb << 20
    wanted = {"RLIMIT_CPU": seconds, "RLIMIT_AS": memory, "RLIMIT_FSIZE": 0, "RLIMIT_NOFILE": 64, "RLIMIT_CORE": 0}
    for name, most in wanted.items():
        with suppress(OSError, ValueError, AttributeError):
            resource.setrlimit(getattr(resource, name), (most, most))


def _files(libc: ctypes.CDLL, readable: Sequence[str]) -> bool:
    """Landlock: whether nothing but `readable` can be opened from now on."""
    handled = struct.pack("Q", ALL_OF_FILES)
    rules = libc.syscall(LANDLOCK_CREATE, handled, ctypes.c_size_t(len(handled)), 0)
    if rules < 0:
        return False
    for path in readable:
        with suppress(OSError):
            place = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
            allowed = READ_FILE | READ_FOLDER if os.path.isdir(path) else READ_FILE
            libc.syscall(LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed, place), 0)
            os.close(place)
    stands: bool = libc.syscall(LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(rules)
    return stands


def _calls(libc: ctypes.CDLL) -> bool:
    """Seccomp: whether only the calls of the tables are left from now on."""
    if platform.machine() not in MACHINES or sys.byteorder != "little":
        return False
    code = b"".join(program(*MACHINES[platform.machine()], os.getpid()))
    kept = ctypes.create_string_buffer(code, len(code))
    filter = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(kept))
    stands: bool = libc.prctl(SECCOMP, 2, filter, 0, 0) == 0
    return stands


def program(column: int, machine: int, pid: int) -> Iterator[bytes]:
    """The filter, instruction by instruction: what is not allowed is refused with EPERM."""
    allowed, looked_at = numbers(CALLS, column), numbers(LOOKED_AT, column)
    yield _instruction(LOAD, 4)
    yield from (_instruction(EQUAL, machine, 1, 0), _instruction(RETURN, KILL), _instruction(LOAD, 0))
    for number in allowed.values():
        yield from (_instruction(EQUAL, number, 0, 1), _instruction(RETURN, ALLOW))
    for name, number in looked_at.items():
        body = list(_by_argument(name, pid))
        yield from (_instruction(EQUAL, number, 0, len(body)), *body)
    yield _instruction(RETURN, REFUSE | errno.EPERM)


def _by_argument(name: str, pid: int) -> Iterator[bytes]:
    """What decides on a call once it is known to be `name`; always ends with a verdict."""
    yes, no = _instruction(RETURN, ALLOW), _instruction(RETURN, REFUSE | errno.EPERM)
    if name == "clone3":  # what it is given cannot be seen from here: libc takes `clone` instead
        yield _instruction(RETURN, REFUSE | errno.ENOSYS)
    elif name in ("open", "openat"):
        yield from (_argument(1 if name == "open" else 2), _instruction(ANY_BIT, WRITING, 0, 1), no, yes)
    elif name == "clone":
        yield from (_argument(0), _instruction(ANY_BIT, THREAD, 0, 1), yes, no)
    elif name == "prlimit64":  # asking, not setting
        yield from (_argument(2), _instruction(EQUAL, 0, 1, 0), no, _argument(2, high=True))
        yield from (_instruction(EQUAL, 0, 0, 1), yes, no)
    else:
        place, values = {
            "tgkill": (0, (pid,)),
            "ioctl": (1, (0x5401, 0x5450, 0x5451)),
            "fcntl": (1, (*range(5), 1030)),
        }[name]
        yield _argument(place)
        for value in values:
            yield from (_instruction(EQUAL, value, 0, 1), yes)
        yield no


def numbers(table: str, column: int) -> dict[str, int]:
    """The calls of a table with their numbers on one machine; those that it does not have are left out."""
    words = iter(table.split())
    found = {name: pair[column] for name, *pair in zip(words, words, words, strict=True)}
    return {name: int(number) for name, number in found.items() if number != "-"}


def _argument(n: int, high: bool = False) -> bytes:
    """Loads an argument of the call, its lower or its higher 32 bits."""
    return _instruction(LOAD, 16 + 8 * n + 4 * high)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
