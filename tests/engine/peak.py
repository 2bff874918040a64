"""Trains once in a process of its own and prints how many bytes that took at its peak: the most that was resident,
less what was resident before, when everything was imported and a first small training had been done.

The allocator must give large tensors back at once, or what is resident is what was: MALLOC_MMAP_THRESHOLD_ is fixed by
whoever starts this (`tests.engine.test_estimate`).
"""

import json
import sys
from pathlib import Path
from typing import Any

from posttrain.engine.job import Job
from posttrain.engine.method import stage_class
from posttrain.engine.store import Store
from posttrain.schema.settings import Rows


def resident(name: str) -> int:
    """VmRSS now, or VmHWM, the most since it was forgotten; in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def train(folder: Path, model: str, rows: str, method: str, options: dict[str, Any], place: str) -> None:
    store = Store(folder / place)
    stage = stage_class(method)(data=rows, **options)
    made, scratch = folder / place / "made", folder / place / "scratch"
    for new in (made, scratch):
        new.mkdir(parents=True)
    stage.run(Job(made, scratch), model=store.model(model), data=(store.dataset(Rows(path=rows)),))


def main(folder: Path, asked: dict[str, Any]) -> None:
    train(folder, asked["warm_model"], asked["warm_rows"], asked["method"], asked["options"], "warm")
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    train(folder, asked["model"], asked["rows"], asked["method"], asked["options"], "measured")
    print(json.dumps({"before": before, "peak": resident("VmHWM") - before}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
