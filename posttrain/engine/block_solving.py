"""GPTQ on the grids of llama.cpp's blocks: what is solved is what the file holds, and nothing is rounded again."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from posttrain.functional.ggml_grids import BlockGrid, blocks_of
from posttrain.functional.ggml_super_blocks import SUPER_GRIDS
from posttrain.functional.ggml_super_grids import SuperBlockGrid, super_blocks_of
from posttrain.functional.rounding import DAMP, Grid, Rounded
from posttrain.models.expert_blocks import stacked
from posttrain.models.gguf_file import Blocks
from posttrain.models.gguf_types import SOLVABLE, TensorType, fitting
from posttrain.models.matrices import decoder, matrices_in
from posttrain.models.precision import device
from posttrain.schema.artifacts import Model

from .job import Job
from .layerwise import Told, compress
from .solving import Matrices, Solved


def solved_blocks(
    job: Job, model: Model, ids_NT: Tensor, kind: TensorType, told: Solved
) -> tuple[Mapping[str, Blocks], list[Told]]:
    """The matrices of a model's layers in blocks of a type, by the names of their weights; rows that are no whole super-blocks
    are solved for the type that they fall back to, and those that are no whole blocks are left out. Raises ModelError for a
    model that has no matrices to solve."""
    weights = decoder(model, "solved")
    kinds = {name: fitting(kind, matrix.in_features) for name, matrix in matrices_in(weights).items()}
    grids = {name: grid_of(each) for name, each in kinds.items() if each in SOLVABLE}
    scratch = job.scratch / kind
    scratch.mkdir(exist_ok=True)
    solver = Matrices(grids, search=True, damp=DAMP, correct=told.correct, polish=told.polish)
    parts, report = compress(weights, ids_NT, solver, device(), replace(job, scratch=scratch))
    return stacked(weights, {name: _blocks(kinds[name], Rounded(*part)) for name, part in parts.items()}), report


def grid_of(kind: str) -> Grid:
    """The numbers of a type in blocks."""
    return SuperBlockGrid(kind) if kind in SUPER_GRIDS else BlockGrid(kind)


def _blocks(kind: TensorType, rounded: Rounded) -> Blocks:
    return Blocks(kind, *(super_blocks_of if kind in SUPER_GRIDS else blocks_of)(kind, rounded))
