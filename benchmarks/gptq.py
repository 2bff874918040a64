"""GPTQ in four bits, groups of 128, symmetric: posttrain beside llm-compressor, and GPTQModel where it is named.

    python benchmarks/gptq.py --llmcompressor lc/bin/python --text FILE…      # the model is trained at the first call
    python benchmarks/gptq.py --llmcompressor lc/bin/python --gptqmodel gq/bin/python --rounds 5

Every side is a process of its own, with the same dense Llama, the same token ids, damping of 0.01 and one order of columns:
by falling G_ii, groups as they were (GPTQModel: its own, by groups). They take rounds in turn. What they saved
is read again and judged by posttrain in one process:

    error    tr(D G D^T) / tr(W G W^T), mean over matrices; G of what the dense model reads of the ids that all looked at
    KL       from the dense model, and how often both hold the same token for the likeliest, on ids that nobody looked at

`rtn` rounds to nearest, `posttrain` is `gptq` as published, `search` looks for narrower scales, `default` makes up for what
earlier layers lost too: then G of the dense model is no longer what it lowers the error for.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from gptq_sides import OURS, SIZES, run
from verdict import spread

RESULTS = Path(__file__).parent / "results"
PEERS = {
    "llmcompressor": "pip install torch==2.13.0 llmcompressor==0.14.0.1",
    "gptqmodel": "pip install torch==2.13.0 transformers==5.23.0 accelerate datasets pypcre logbar tokenicer device-smi "
    "threadpoolctl pillow random_word maturin ninja protobuf requests"
    " && FOLDER/bin/pip install --no-deps gptqmodel==7.7.0 optimum==2.3.0 defuser torchao",
}
BUILD = """{python!r} does not run {name}, which wants other versions than posttrain, so a Python of its own. Build one:
    python3 -m venv FOLDER && FOLDER/bin/{build}
and write --{name} FOLDER/bin/python, or {variable}=FOLDER/bin/python"""
ERROR, OF_NEAREST, KL, TIME = 1.02, 0.5, 1.05, 0.8  # goals: times the peer's, or those of rounding to nearest


@dataclass
class Side:
    """What is known of a program. `solve` are the seconds of calibration and solving, `wall` and `cpu` of the whole process."""

    name: str
    wall: list[float] = field(default_factory=list)
    solve: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    kl: list[float] = field(default_factory=list)
    same: float = 0.0

    @property
    def error(self) -> float:
        return fmean(self.errors.values())


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PEERS:
        told = f"the Python that has it; default: {variable(name)}"
        parser.add_argument(f"--{name}", default=os.environ.get(variable(name)), metavar="PYTHON", help=told)
    parser.add_argument(
        "--text", type=Path, nargs="+", help="what the model learns; default: posttrain's own documents"
    )
    parser.add_argument("--folder", type=Path, default=RESULTS / "gptq", help="where models are kept")
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--rounds", type=int, default=5, help="of every side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sequences", type=int, default=64, help="texts that are looked at")
    parser.add_argument("--held-out", type=int, default=32, help="texts that are judged by")
    parser.add_argument("--length", type=int, default=256, help="tokens of a text")
    parser.add_argument(
        "--quick", action="store_true", help="a small model and one round, speed not judged: does it run?"
    )
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.size, args.rounds, args.sequences, args.held_out = "small", 1, 32, 16
    root = Path(__file__).parent.parent
    args.text = args.text or [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("posttrain/**/*.py")]
    args.folder = args.folder.absolute() / f"{args.size}-{args.sequences}-{args.length}"
    args.dense, args.made = args.folder / "dense", args.folder / str(args.side)
    args.said = args.folder / f"{args.side}.json"
    args.sides = [*OURS, *(name for name in PEERS if getattr(args, name))]
    return args


def variable(name: str) -> str:
    return f"{name.upper()}_PYTHON"


def require(name: str, python: str | None) -> None:
    """Ends with how to build it where a peer's Python is not there or does not import it."""
    found = python and shutil.which(python)
    if not found or subprocess.run([found, "-c", f"import {name}"], capture_output=True, check=False).returncode:
        sys.exit(BUILD.format(python=python, name=name, build=PEERS[name], variable=variable(name)))


def ask(args: argparse.Namespace, side: str, threads: int) -> tuple[Any, dict[str, float]]:
    """Lets a side work: what it says, and what its process needed. The peak is its own, as nothing heavy is imported here."""
    python = shutil.which(getattr(args, side, None) or sys.executable)
    assert python is not None
    text = ["--text", *(str(path.resolve()) for path in args.text)] if args.text else []
    places = [
        "--folder",
        str(args.folder.parent.resolve()),
        *text,
    ]  # it works there, as peers leave logs where they work
    command = [os.path.abspath(python), str(Path(__file__).resolve()), *sys.argv[1:], *places, "--side", side]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "GPTQMODEL_CPU_WORKERS": "2"}
    shutil.rmtree(args.folder / side, ignore_errors=True)
    log = args.folder / f"{side}.log"
    with log.open("w", encoding="utf-8") as noise:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=noise, stderr=noise, env=env, cwd=args.folder)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        sys.exit(f"The side {side!r} ended early. Its last words are in {log}.")
    peak = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    said = json.loads((args.folder / f"{side}.json").read_text(encoding="utf-8"))
    return said, {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "peak_mib": peak}


def compete(args: argparse.Namespace) -> list[Side]:
    sides = {name: Side(name) for name in args.sides}
    for number in range(1, args.rounds + 1):
        for side in sides.values():
            solve, needed = ask(args, side.name, args.threads)
            print(f"round {number} {side.name:14} {needed['wall']:6.1f} s, solving {solve:6.1f} s", file=sys.stderr)
            for name, value in (needed | {"solve": solve}).items():
                getattr(side, name).append(value)
    judged, _ = ask(args, "judge", args.threads)
    for name, said in judged.items():
        sides[name].errors, sides[name].kl, sides[name].same = said["errors"], said["kl"], said["same"]
    return list(sides.values())


def table(sides: Sequence[Side]) -> Iterator[str]:
    """Medians with the whole range over rounds."""
    nearest = next(side for side in sides if side.name == "rtn")
    heads = "side | whole job s | solving s | CPU s | peak MiB | error | of rounding to nearest's | KL | same token"
    yield f"| {heads} |"
    yield "|---" * (heads.count("|") + 1) + "|"
    for side in sides:
        cells = [side.name, *(spread(getattr(side, name), 1) for name in ("wall", "solve", "cpu"))]
        cells += [f"{median(side.peak_mib):.0f}", f"{side.error:.3e}", f"{side.error / nearest.error:.3f}"]
        cells += [f"{fmean(side.kl):.3e} ± {stdev(side.kl) / len(side.kl) ** 0.5:.1e}", f"{side.same:.4f}"]
        yield f"| {' | '.join(cells)} |"


def beside(side: Side, peer: Side) -> str:
    """What a side needs, and loses, as a multiple of what a peer does: round by round, matrix by matrix, text by text."""
    times = {
        name: spread([a / b for a, b in zip(getattr(side, name), getattr(peer, name), strict=True)], 2)
        for name in ("wall", "solve", "cpu", "peak_mib")
    }
    errors = spread([side.errors[name] / error for name, error in peer.errors.items()], 3)
    ratio = fmean(side.kl) / fmean(peer.kl)
    off = stdev([a - ratio * b for a, b in zip(side.kl, peer.kl, strict=True)]) / len(side.kl) ** 0.5 / fmean(peer.kl)
    return (
        f"{side.name} / {peer.name}: whole job {times['wall']}, solving {times['solve']}, CPU {times['cpu']}, peak "
        f"{times['peak_mib']}, error {side.error / peer.error:.3f}, of each matrix {errors}, KL {ratio:.3f} ± {off:.3f}"
    )


def goals(sides: Sequence[Side]) -> Iterator[tuple[str, float, float]]:
    """What `posttrain` has to reach: in words, what was found, and the most that it may be."""
    by_name = {side.name: side for side in sides}
    ours, peers = by_name["posttrain"], [by_name[name] for name in PEERS if name in by_name]
    yield "error, times llm-compressor's", ours.error / by_name["llmcompressor"].error, ERROR
    yield "error, times that of rounding to nearest", ours.error / by_name["rtn"].error, OF_NEAREST
    yield "KL, times the better peer's", fmean(ours.kl) / min(fmean(peer.kl) for peer in peers), KL
    yield "whole job, times the faster peer's", median(ours.wall) / min(median(peer.wall) for peer in peers), TIME
    yield "solving, times the faster peer's", median(ours.solve) / min(median(peer.solve) for peer in peers), TIME
    yield "peak memory, times the smaller peer's", max(ours.peak_mib) / min(min(p.peak_mib) for p in peers), 1


def main() -> int:
    args = options()
    if args.side:
        run(args)
        return 0
    require("llmcompressor", args.llmcompressor)
    if args.gptqmodel:
        require("gptqmodel", args.gptqmodel)
    args.folder.mkdir(parents=True, exist_ok=True)
    if not (args.dense / "ids.json").exists():
        ask(args, "prepare", args.threads)
    sides = compete(args)
    with (RESULTS / "gptq.jsonl").open("a", encoding="utf-8") as file:
        told = {"when": time.strftime("%Y-%m-%dT%H:%M:%S"), "options": vars(args), "sides": [asdict(s) for s in sides]}
        file.write(json.dumps(told, default=str) + "\n")
    print("\n".join(table(sides)))
    print("\n".join(beside(side, peer) for peer in sides if peer.name in PEERS for side in sides if side.name in OURS))
    reached = True
    for words, found, most in goals(sides):
        judged = not args.quick or not words.startswith(("whole", "solving", "peak"))
        reached &= found <= most or not judged
        print(f"{'reached' if found <= most else 'MISSED'}: {words}: {found:.3f}, at most {most}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
