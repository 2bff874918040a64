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
from posttrain.models.experts import FUSED, kind_of
from posttrain.models.inputs import Groups, Inputs, groups
from posttrain.models.matrices import others_in
from posttrain.schema.errors import Stopped

from .checkpoint import read_whole, write_whole
from .job import Job

MOST_STAGES = 8  # kinds of groups of a block that are solved one after another; where there are more, all at once
MOST_BYTES = 8 << 30  # of what is known of inputs at once; where there is more, as of many experts, texts pass again
LEAST = (
    0.25  # tokens for each column of a matrix: fewer of them say less of it than its weights do (docs/compression.md)
)

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
    for stage in stages(block, of, one_by_one=beside is not None):
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


def stages(block: Block, of: Groups, one_by_one: bool = False) -> list[Groups]:
    """The groups of a block in parts that are heard at once: all, or `one_by_one` what is used one after another, in which all
    experts count as one; in each no more than fits."""
    kinds: dict[tuple[str, ...], list[Sequence[str]]] = {}
    for names in of:
        kinds.setdefault(tuple(map(kind_of, names)) if one_by_one else (), []).append(names)
    found: list[list[Sequence[str]]] = []
    linears = block.linears()
    for part in kinds.values() if len(kinds) <= MOST_STAGES else [of]:
        size, most = 0, MOST_BYTES // (2 if one_by_one else 1)
        for n, names in enumerate(part):
            size += 4 * linears[names[0]].in_features ** 2
            if n == 0 or size > most:
                found.append([])
                size = 4 * linears[names[0]].in_features ** 2
            found[-1].append(names)
    return list(found)


def unheard(tokens: int, columns: int) -> str:
    """Why a matrix of so many columns cannot be solved by so many tokens; empty where it can."""
    if tokens >= LEAST * columns:
        return ""
    return (
        f"{tokens} tokens reached it, fewer than {LEAST:g} for each of {columns} columns"
        if tokens
        else "no token reached it"
    )


def tell_what_is_left(job: Job, weights: nn.Module, told: Sequence[Told]) -> list[str]:
    """Notes what was not solved, and blocks of experts that could not be taken apart; the names of all that is no matrix."""
    others = others_in(weights)
    if fused := [name for name in others if name.endswith(FUSED)]:
        job.note(f"{len(fused)} blocks of weights are no plain matrices and stay as they are, such as {fused[0]}")
    tell_fallbacks(job, told)
    return others


def tell_fallbacks(job: Job, told: Sequence[Told]) -> None:
    """Notes how many matrices were not solved, with an example."""
    if few := [each for each in told if each.fallback]:
        job.note(f"{len(few)} of {len(told)} matrices are not solved, such as {few[0].name}, {few[0].fallback}")


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
