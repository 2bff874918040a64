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
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

RESULTS = Path(__file__).parent / "results"
FIRST_LOSS, FINAL_LOSS = 1e-3, 1e-2  # relative differences that still count as the same work


@dataclass
class Round:
    """One epoch of one side. `answer_tokens` are learnt, `tokens` are all that a row holds: padding is in neither."""

    seconds: float
    cpu_seconds: float
    answer_tokens: int
    tokens: int
    losses: list[float]

    @property
    def rate(self) -> float:
        """Answer tokens per second of wall clock."""
        return self.answer_tokens / self.seconds

    @property
    def cpu_rate(self) -> float:
        return self.answer_tokens / self.cpu_seconds


@dataclass
class Side:
    """What the referee knows of a side: `posttrain`, or a setting of the peer."""

    name: str
    same_steps: bool = True  # the same rows in the same optimizer steps as posttrain
    told: dict[str, Any] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        return [loss for made in self.rounds for loss in made.losses]


@dataclass(frozen=True)
class Setting:
    """One way to run the peer. `same_steps`: its optimizer steps hold the same rows as posttrain's."""

    told: str
    same_steps: bool = True


def bench(
    script: str,
    about: str,
    settings: Mapping[str, Setting],
    usual: Sequence[str],
    ours: Callable[[argparse.Namespace, "Turns"], None],
    theirs: Callable[[argparse.Namespace, "Turns"], None],
) -> int:
    """The command line of a benchmark: as the referee, or as the side that the referee started. Returns the exit code."""
    args = _options(about, settings, usual).parse_args()
    if args.quick:
        args.repeats, args.steps, args.batch, args.shorter = 2, 2, 4, 8
    if args.side:
        (ours if args.side == "posttrain" else theirs)(args, Turns())
        return 0
    sides = [Side("posttrain"), *(Side(name, settings[name].same_steps) for name in args.settings)]
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
        self._made = {"answer_tokens": 0, "tokens": 0, "losses": []}
        self._began = (time.perf_counter(), time.process_time())

    def count(self, answer_tokens: int, tokens: int) -> None:
        self._made["answer_tokens"] += answer_tokens
        self._made["tokens"] += tokens

    def loss(self, value: float) -> None:
        self._made["losses"].append(value)

    def done(self) -> None:
        """The round is over."""
        seconds, cpu_seconds = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        self._say({"seconds": seconds, "cpu_seconds": cpu_seconds, **self._made})

    def end(self, held_out: Callable[[], float]) -> None:
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
        processes = {side.name: _start(script, side.name, noise) for side in sides}
        try:
            for side in sides:
                side.told = _hear(processes[side.name], side, log)["ready"]
            for number in range(args.repeats + 1):
                for side in sides:
                    made = Round(**_ask(processes[side.name], "go", side, log))
                    if number:  # the first round is for warming up
                        side.rounds.append(made)
                    print(_line(number, side, made), file=sys.stderr, flush=True)
            for side in sides:
                side.told |= _ask(processes[side.name], "end", side, log)
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
    _keep(script, args, sides)
    print("\n".join(_table(sides)))
    faults = list(_faults(sides))
    print("\n".join(faults) or "All sides did the same work: first losses, final losses and token counts agree.")
    return not faults


def _start(script: str, name: str, noise: TextIO) -> subprocess.Popen[str]:
    command = [sys.executable, script, *sys.argv[1:], "--side", name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, text=True)


def _ask(process: subprocess.Popen[str], word: str, side: Side, log: Path) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return _hear(process, side, log)


def _hear(process: subprocess.Popen[str], side: Side, log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(f"The side {side.name!r} ended early. Its last words are in {log}.")
    said: dict[str, Any] = json.loads(line)
    return said


def _line(number: int, side: Side, made: Round) -> str:
    name = f"round {number}" if number else "warm-up"
    return f"{name:8} {side.name:14} {made.seconds:7.1f} s {made.rate:9.0f} answer tokens/s"


def _ratios(ours: Side, theirs: Side, rate: str = "rate") -> list[float]:
    return [getattr(a, rate) / getattr(b, rate) for a, b in zip(ours.rounds, theirs.rounds, strict=True)]


def _spread(values: Sequence[float], digits: int = 0) -> str:
    low, mid, high = (f"{v:.{digits}f}" for v in (min(values), statistics.median(values), max(values)))
    return f"{mid} [{low}-{high}]"


def _table(sides: Sequence[Side]) -> Iterator[str]:
    """Medians with the whole range over rounds; the ratio is taken round by round."""
    ours = sides[0]
    yield f"steps of {ours.rounds[0].answer_tokens / len(ours.rounds[0].losses):.0f} answer tokens, {_machine(ours)}"
    yield (
        "| side | answer tokens/s | real tokens/s | posttrain is x times | by CPU time | peak MiB | posttrain needs "
        "| prepared in s | held-out loss |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for side in sides:
        cells = [side.name, _spread([r.rate for r in side.rounds])]
        cells.append(_spread([r.tokens / r.seconds for r in side.rounds]))
        cells += ["", ""] if side is ours else [_spread(_ratios(ours, side, r), 2) for r in ("rate", "cpu_rate")]
        cells.append(f"{side.told['peak_mib']:.0f}")
        cells.append("" if side is ours else f"{ours.told['peak_mib'] / side.told['peak_mib']:.0%}")
        cells += [f"{side.told['prepared_s']:.1f}", f"{side.told['held_out']:.5f}"]
        yield f"| {' | '.join(cells)} |"


def _machine(side: Side) -> str:
    computed = f"computing in {side.told['computes_in']}, fast fp32 products {side.told['fast_matmul']}"
    return f"{side.told['threads']} threads, {computed}"


def _faults(sides: Sequence[Side]) -> Iterator[str]:
    """Every way in which a side did other work than posttrain."""
    ours = sides[0]
    for side in sides[1:]:
        off = abs(side.told["held_out"] / ours.told["held_out"] - 1)
        if off > FINAL_LOSS:
            yield f"{side.name}: the held-out loss differs by {off:.1%}"
        if side.rounds[0].answer_tokens != ours.rounds[0].answer_tokens:
            yield f"{side.name}: {side.rounds[0].answer_tokens} answer tokens, not {ours.rounds[0].answer_tokens}"
        if side.same_steps:
            off = max(abs(a / b - 1) for a, b in zip(side.losses, ours.losses, strict=True))
            if off > FIRST_LOSS:
                yield f"{side.name}: losses of the same step differ by {off:.1e}"


def _keep(script: str, args: argparse.Namespace, sides: Sequence[Side]) -> None:
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
