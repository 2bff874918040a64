"""Compression layer by layer: every method that changes matrices one block after another, from what they read.

For each block: hear what its matrices read, solve, put the answers in, pass the texts through what it is now, so that the next
block is solved for what it will really read. Within a block it goes group by group in the same way, where a solver wants to know
what those before left behind. A block that is done is on the disk; a killed run goes on behind it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from posttrain.models.blocks import Block, Blocks
from posttrain.models.inputs import Groups, Inputs, groups
from posttrain.schema.errors import Stopped

from .checkpoint import read_whole, write_whole
from .job import Job

MOST_STAGES = 6  # groups of a block that are solved one after another; where there are more, as of experts, all at once

Parts = Mapping[str, tuple[Tensor, ...]]
"""What is kept of each matrix that was solved, by its name in the model."""


@dataclass(frozen=True)
class Told:
    """What became of one matrix. `error` is the share of its output that changed, `nearest` what doing the same to each weight
    by itself would have changed, `tokens` how many it was looked at with, `fallback` why it was not solved, `note` what else
    there is to say."""

    name: str
    error: float
    nearest: float
    tokens: int
    fallback: str = ""
    note: str = ""


class Solver(Protocol):
    """Changes the matrices of a block."""

    @property
    def looks_back(self) -> bool:
        """Whether it wants to know how what a matrix reads differs from what it read before anything was done."""

    def begin(self, block: Block, blocks: Blocks, of: Groups) -> Mapping[str, Told]:
        """Whatever comes before its matrices are solved, and keeps what the block computes: it may say something of them."""

    def solve(self, block: Block, inputs: Inputs) -> tuple[Parts, Sequence[Told]]:
        """What becomes of the matrices whose inputs are given."""

    def put(self, block: Block, parts: Parts) -> None:
        """Gives matrices their weights."""


@torch.no_grad()
def compress(
    weights: nn.Module, ids_NT: Tensor, solver: Solver, device: torch.device, job: Job
) -> tuple[Parts, list[Told]]:
    """Solves all blocks of a model, in place. Raises Stopped between two of them when asked to."""
    blocks = Blocks(weights, ids_NT, device, both=solver.looks_back)
    solved: dict[str, tuple[Tensor, ...]] = {}
    told: list[Told] = []

    def put(block: Block, kept: Mapping[str, Any]) -> None:
        block.module.load_state_dict(kept["rest"], strict=False)
        solver.put(block, kept["parts"])

    for kept in walk(blocks, lambda block: _solved(blocks, block, solver), put, job):
        solved |= kept["parts"]
        told += [Told(**each) for each in kept["told"]]
    return solved, told


def walk(
    blocks: Blocks,
    solve: Callable[[Block], dict[str, Any]],
    put: Callable[[Block, Mapping[str, Any]], None],
    job: Job,
) -> Iterator[dict[str, Any]]:
    """What became of each block, in their order: solved in place, or put in place where a run before this one solved it. Raises
    Stopped between two of them when asked to."""
    for done, block in enumerate(blocks, 1):
        path = job.scratch / f"layer-{done}.pt"
        kept = read_whole(path)
        if kept is None:
            kept = solve(block)
            write_whole(path, kept)
        else:
            blocks.pass_untouched(block)
            put(block, kept)
        yield kept
        job.emit("progress", step=done, of=len(blocks.blocks))
        if done < len(blocks.blocks) and job.stop():
            raise Stopped(
                f"Stopped after layer {done} of {len(blocks.blocks)}. Run the same command to go on behind it."
            )


def _solved(blocks: Blocks, block: Block, solver: Solver) -> dict[str, Any]:
    """Solves a block, in place; all that it became, as a file can hold it."""
    of = groups(block, blocks.some())
    before = replace(block, module=deepcopy(block.module)) if solver.looks_back else None
    said = solver.begin(block, blocks, of)
    beside = replace(block, module=deepcopy(block.module)) if solver.looks_back else None
    parts: dict[str, tuple[Tensor, ...]] = {}
    told: list[Told] = []
    for stage in [[each] for each in of] if beside and len(of) <= MOST_STAGES else [of]:
        found, more = solver.solve(block, heard(blocks, block, stage, beside))
        solver.put(block, found)
        parts |= {name: tuple(part) for name, part in found.items()}
        told += [
            replace(one, nearest=said[one.name].nearest, note=said[one.name].note) if one.name in said else one
            for one in more
        ]
    if before:
        blocks.pass_untouched(before)  # as a resumed run does, to the last bit
    state = {f"{block.name}.{name}": x for name, x in block.module.state_dict().items()}
    rest = {name: x for name, x in state.items() if name.removesuffix(".weight") not in parts}
    return {
        "parts": parts,
        "rest": {name.removeprefix(f"{block.name}."): x for name, x in rest.items()},
        "told": [asdict(each) for each in told],
    }


def heard(blocks: Blocks, block: Block, of: Groups, beside: Block | None = None) -> Inputs:
    """What reaches groups of matrices of a block when all texts pass through it."""
    inputs = Inputs(block, of, beside)
    for some, there in blocks.pairs():
        inputs.hear(some, there)
    return inputs


def write_report(folder: Path, told: Sequence[Told] | Mapping[str, Sequence[Told]]) -> None:
    """A file that says what became of each matrix; of each by kind where it became several."""
    rows: Any = (
        {kind: [asdict(each) for each in of] for kind, of in told.items()}
        if isinstance(told, Mapping)
        else [asdict(each) for each in told]
    )
    (folder / "compression.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
