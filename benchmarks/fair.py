"""The referee of the benchmarks: two or more sides train on the same rows, in turn, each in a process of its own.

A side is a process that waits for its turn. A round is one epoch over the same rows for every side; the sides take
rounds A B C A B C, so that whatever else the machine does meets all of them. The referee imports nothing heavy: the
peak memory of a side is the side's own.

    referee -> side   "go" for a round, "end" after the last one
    side -> referee   {"ready": ...}, then a line for each round, then {"peak_mib": ..., "held_out": ...}
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from verdict import Round, Setting, Side, faults, table

RESULTS = Path(__file__).parent / "results"


def bench(
    script: str,
    about: str,
    settings: Mapping[str, Setting],
    usual: Sequence[str],
    ours: Callable[[argparse.Namespace, "Turns"], None],
    theirs: Callable[[argparse.Namespace, "Turns"], None],
    more: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """The command line of a benchmark: as the referee, or as the side that the referee started. `more` adds options of
    its own. Returns the exit code."""
    parser = _options(about, settings, usual)
    more(parser)
    args = parser.parse_args()
    if args.quick:
        args.repeats, args.steps, args.batch, args.shorter = 2, 2, 4, 8
    if args.side:
        (ours if args.side == "posttrain" else theirs)(args, Turns())
        return 0
    known = {name: settings[name] for name in args.settings}
    sides = [Side("posttrain"), *(Side(name, told.same_steps, told.same_loss) for name, told in known.items())]
    return 0 if _referee(script, args, sides) else 1


def _options(about: str, settings: Mapping[str, Setting], usual: Sequence[str]) -> argparse.ArgumentParser:
    listed = "; ".join(f"{name}: {setting.told}" for name, setting in settings.items())
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=settings, default=list(usual), help=listed)
    parser.add_argument("--threads", type=int, help="default: what torch takes on this machine")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after a warm-up round")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps in a round")
    parser.add_argument("--batch", type=int, default=8, help="rows in an optimizer step")
    parser.add_argument("--shorter", type=int, default=1, help="divide the length of every prompt and answer by this")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--micro-tokens", type=int, default=4096, help="posttrain's tokens computed at once")
    parser.add_argument("--quick", action="store_true", help="a tiny model and two rounds: does it run at all?")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser


class Turns:
    """A side's view of the referee: waits for a turn and tells what was done in it."""

    def __init__(self) -> None:
        self._out = _claim_stdout()
        self._made: dict[str, Any] = {}
        self._began = (0.0, 0.0)
        self._born = time.perf_counter()

    def wait(self, **told: Any) -> None:
        """Returns when the next round may begin. `told` is said once, before the first."""
        if not self._made:
            self._say({"ready": {"prepared_s": time.perf_counter() - self._born, **told}})
        _expect("go")
        self._made = {"answer_tokens": 0, "tokens": 0, "losses": [], "laps": {}}
        self._began = (time.perf_counter(), time.process_time())

    def count(self, answer_tokens: int, tokens: int) -> None:
        self._made["answer_tokens"] += answer_tokens
        self._made["tokens"] += tokens

    def loss(self, value: float) -> None:
        self._made["losses"].append(value)

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Within: part of a round, timed by itself too."""
        began = time.perf_counter()
        yield
        if self._made:  # else it is before the first round
            laps = self._made["laps"]
            laps[name] = laps.get(name, 0.0) + time.perf_counter() - began

    def done(self) -> None:
        """The round is over."""
        seconds, cpu_seconds = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        if laps := self._made["laps"]:
            laps["the rest"] = seconds - sum(laps.values())
        self._say({"seconds": seconds, "cpu_seconds": cpu_seconds, **self._made})

    def end(self, held_out: Callable[[], float | None] = lambda: None) -> None:
        """After the last round: the peak first, as judging the weights takes memory too."""
        _expect("end")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
        self._say({"peak_mib": peak, "held_out": held_out()})

    def _say(self, what: dict[str, Any]) -> None:
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()


def _claim_stdout() -> TextIO:
    """The pipe to the referee; whatever else is printed goes to stderr."""
    pipe = sys.stdout
    sys.stdout = sys.stderr
    return pipe


def _expect(word: str) -> None:
    if sys.stdin.readline().strip() != word:
        sys.exit(1)  # the referee is gone


def _referee(script: str, args: argparse.Namespace, sides: Sequence[Side]) -> bool:
    """Lets the sides train in turn, prints and keeps what came out; whether all did the same work."""
    log = RESULTS / f"{Path(script).stem}.log"
    RESULTS.mkdir(exist_ok=True)
    with log.open("a", encoding="utf-8") as noise:
        processes = {side.name: start(script, side.name, noise) for side in sides}
        try:
            for side in sides:
                side.told = hear(processes[side.name], side, log)["ready"]
            for number in range(args.repeats + 1):
                for side in sides:
                    made = Round(**ask(processes[side.name], "go", side, log))
                    if number:  # the first round is for warming up
                        side.rounds.append(made)
                    print(_line(number, side, made), file=sys.stderr, flush=True)
            for side in sides:
                side.told |= ask(processes[side.name], "end", side, log)
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
    keep(script, args, sides)
    print("\n".join(table(sides)))
    found = list(faults(sides))
    print("\n".join(found) or f"All sides did the same work: {_agreed(sides)} agree.")
    return not found


def start(script: str, name: str, noise: TextIO, *more: str) -> subprocess.Popen[str]:
    """A side, with the options of this command and some more."""
    command = [sys.executable, script, *sys.argv[1:], "--side", name, *more]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, text=True)


def ask(process: subprocess.Popen[str], word: str, side: Side, log: Path) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return hear(process, side, log)


def hear(process: subprocess.Popen[str], side: Side, log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(f"The side {side.name!r} ended early. Its last words are in {log}.")
    said: dict[str, Any] = json.loads(line)
    return said


def _line(number: int, side: Side, made: Round) -> str:
    name = f"round {number}" if number else "warm-up"
    return f"{name:8} {side.name:14} {made.seconds:7.1f} s {made.rate:9.0f} answer tokens/s"


def _agreed(sides: Sequence[Side]) -> str:
    """What was compared."""
    found = ["token counts"] if not sides[0].told.get("drawn_lengths") else []
    if any(side.same_loss for side in sides[1:]):
        found = ["first losses", "final losses", *found]
    return ", ".join([*found, *(["gradients of given answers"] if "checked" in sides[0].told else [])])


def keep(script: str, args: argparse.Namespace, sides: Sequence[Side]) -> None:
    """One line for each run, slower ones included."""
    run = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "options": vars(args),
        "machine": {"processor": platform.processor() or platform.machine(), "system": platform.platform()},
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "sides": [asdict(side) for side in sides],
    }
    with (RESULTS / f"{Path(script).stem}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")
