"""Runs a program of this folder in the environment of its package: what it is told and what it says is JSON.

python run.py PROGRAM.py TOLD SAID

A program is a function `rounded(told, logits)`. It saves the model `told["model"]` rounded to `told["made"]`, and what that computes for
`told["asked"]` before and after, in its memory, to `told["before"]` and `told["after"]`; it says which versions did it.
"""

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("program", "told", "said"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    told = json.loads(args.told.read_text(encoding="utf-8"))
    args.said.write_text(json.dumps(_loaded(args.program).rounded(told, logits)), encoding="utf-8")


def _loaded(path: Path) -> Any:
    """A program as a module of a name that no package has."""
    spec = importlib.util.spec_from_file_location("program", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def logits(model: Any, asked: list[list[int]]) -> Any:
    """(rows, T, V): what a model says after every token."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(asked), use_cache=False).logits.float().numpy()


if __name__ == "__main__":
    main()
