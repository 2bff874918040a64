"""A place to run in: a tiny model, rows and a recipe of the quick start's shape; ways to run it; what came out."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.schema.artifacts import MANIFEST
from posttrain.schema.events import Event, parse
from tests import tiny

HERE = Path(__file__).parent
IMPORTED = [str(folder) for folder in (HERE.parent.parent, HERE.parent / "pipeline", HERE)]  # the stand-in methods
ENVIRONMENT = {**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(IMPORTED)}
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.scandir", "shutil.rmtree"}
server = multiprocessing.get_context("forkserver")
PATIENCE = 240  # seconds after which a run hangs, on a machine with much else to do

RECIPE = """\
name: demo
model: ./base
measure:
  - benchmark: {name: chat, data: test.jsonl, max_new_tokens: 8}
  - preference_accuracy: {name: pairs, data: pairs_test.jsonl}
  - size
stages:
  - sft: {data: chat.jsonl, learning_rate: 1e-3, batch_size: 4, steps: 24, checkpoint_seconds: 0}
  - dpo: {data: pairs.jsonl, learning_rate: 1e-4, batch_size: 4, steps: 16, checkpoint_seconds: 0}
  - few_shot: {from: base, data: chat.jsonl, k: 2, layout: plain}
"""

ONLINE = """\
name: demo
model: ./base
measure: [size]
stages:
  - grpo:
      from: base
      data: chat.jsonl
      reward: {functions: [{contains: {weight: 0.5}}]}
      batch_size: 4
      answers: 3
      max_new_tokens: 6
      learning_rate: 1e-3
      steps: 24
      checkpoint_seconds: 0
  - reward: {data: pairs.jsonl, learning_rate: 1e-3, batch_size: 8, steps: 24, checkpoint_seconds: 0}
  - ppo:
      from: base
      data: chat.jsonl
      reward: {model: reward}
      mix: {data: chat.jsonl, batch_size: 2}
      batch_size: 4
      answers: 2
      max_new_tokens: 6
      passes: 2
      minibatches: 2
      kl_target: 0.5
      learning_rate: 1e-3
      steps: 6
      checkpoint_seconds: 0
"""

STAND_INS = """\
name: demo
model: ./base
measure: [{pipeline_fakes:Score: {data: test.jsonl}}]
stages:
  - pipeline_fakes:Tune: {data: chat.jsonl}
  - pipeline_fakes:Write: {data: chat.jsonl}
  - pipeline_fakes:Tune: {name: second, data: write, strength: 0.2}
"""


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def furnish(folder: Path, **changes: Any) -> None:
    """A model of random weights (`changes` go to its configuration), rows to learn and to measure with, and r.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny.model(**changes).save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    for name, numbers in (("chat.jsonl", range(48)), ("test.jsonl", range(60, 68))):
        write_rows(folder / name, [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in numbers])
    for name, numbers in (("pairs.jsonl", range(32)), ("pairs_test.jsonl", range(40, 48))):
        pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}, gladly.", "rejected": f"No {n}"} for n in numbers]
        write_rows(folder / name, pairs)
    (folder / "r.yaml").write_text(RECIPE, encoding="utf-8")


@dataclass(frozen=True)
class Done:
    """What a command that ended left on its streams, and its exit code."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """A furnished folder and the folder of runs in it; `words` are the command that is run there."""

    folder: Path
    words: tuple[str, ...] = ("run", "r.yaml")
    out: Path = field(default=Path("runs"))

    @property
    def runs(self) -> Path:
        return self.folder / self.out

    @property
    def store(self) -> Path:
        return self.runs / "store"

    @property
    def command(self) -> tuple[str, ...]:
        return (*self.words, "--out", str(self.out))

    def start(self) -> "subprocess.Popen[str]":
        """The command as a user starts it."""
        pipe = subprocess.PIPE
        words = [sys.executable, "-m", "posttrain.cli", *self.command]
        return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, cwd=self.folder, env=ENVIRONMENT)

    def run(self) -> Done:
        """The command from its start to its end."""
        return ended(self.start())

    @property
    def log(self) -> Path:
        """What the last forked command told."""
        return self.folder / f"{self.out.name}.log"

    def fork(self, left: Any = None) -> multiprocessing.process.BaseProcess:
        """The command in a process of its own that finds its imports done, which is most of a short run. It kills
        itself after `left` operations on files of its runs."""
        server.set_forkserver_preload(["tests.faults.preloaded"])
        process = server.Process(target=call, args=(self.command, self.folder, self.log, self.runs, left))
        process.start()
        return process

    def finish(self, left: Any = None) -> str:
        """Runs the command to its end, which must be a good one; returns what it told."""
        process = self.fork(left)
        process.join(PATIENCE)
        told = self.log.read_text(encoding="utf-8")
        assert process.exitcode == 0, told
        return told

    def events(self, run: str = "demo-1") -> list[Event]:
        path = self.runs / run / "events.jsonl"
        return list(parse(path.read_text(encoding="utf-8", errors="replace"))) if path.is_file() else []

    def contents(self) -> dict[str, str]:
        """Every file of every artifact with a hash of its bytes; of a manifest, all but the machine it was made on."""
        return {
            path.relative_to(self.store).as_posix(): content(path)
            for manifest in self.store.glob(f"*/{MANIFEST}")
            for path in manifest.parent.rglob("*")
            if path.is_file()
        }

    def made(self, method: str) -> Path:
        """The one artifact of a method."""
        (found,) = self.store.glob(f"{method}-*")
        return found


def content(path: Path) -> str:
    data = path.read_bytes()
    if path.name == MANIFEST:
        manifest = json.loads(data)
        del manifest["environment"]
        data = json.dumps(manifest, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def call(words: Sequence[str], folder: Path, log: Path, runs: Path, left: Any) -> None:
    """What a forked process does: one command, its streams into a file."""
    import torch

    from posttrain.cli import main

    sys.path[:0] = IMPORTED
    os.chdir(folder)
    with log.open("wb", 0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    if left is not None:
        kill_after(left, runs)
    raise SystemExit(main(words))


def kill_after(left: Any, runs: Path) -> None:
    """Counts `left` down at every operation that Python is about to do on a file under `runs`; at 0 it is not done."""

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in OPERATIONS or not isinstance(arguments[0], str | os.PathLike):
            return
        if runs in Path(os.path.abspath(arguments[0])).parents:
            left.value -= 1
            if left.value == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def ended(process: "subprocess.Popen[str]") -> Done:
    out, err = process.communicate(timeout=PATIENCE)
    return Done(process.returncode, out, err)


def wait_for(what: Callable[[], Any], process: Any) -> None:
    """Returns when `what()` holds. Fails when the process ended, or time has run out, before it did."""
    end = time.monotonic() + PATIENCE
    while not what():
        gone = process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
        assert gone is None, f"it ended with {gone} before"
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def steps(events: Sequence[Event], stage: str) -> list[int]:
    """The steps of a training stage in the order in which they were told."""
    of_stage = [e for e in events if e.kind == "progress" and e.fields["stage"] == stage and "loss" in e.fields]
    return [event.fields["step"] for event in of_stage]
