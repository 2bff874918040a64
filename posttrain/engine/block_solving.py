"""GPTQ on the grids of llama.cpp's blocks: what is solved is what the file holds, and nothing is rounded again."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from posttrain.functional.ggml_blocks import BLOCK
from posttrain.functional.ggml_grids import BlockGrid, blocks_of
from posttrain.functional.rounding import DAMP, Rounded
from posttrain.models.expert_blocks import stacked
from posttrain.models.gguf_file import Blocks, GgufType
from posttrain.models.matrices import decoder, matrices_in
from posttrain.models.precision import device
from posttrain.schema.artifacts import Model

from .job import Job
from .layerwise import Told, compress
from .solving import Matrices


def solved_blocks(
    job: Job, model: Model, ids_NT: Tensor, kind: GgufType, correct: float
) -> tuple[Mapping[str, Blocks], list[Told]]:
    """The matrices of a model's layers in blocks of a type, by the names of their weights; those whose rows are no whole
    blocks are left out. Raises ModelError for a model that has no matrices to solve."""
    weights = decoder(model, "solved")
    grid = BlockGrid(kind)
    grids = {name: grid for name, matrix in matrices_in(weights).items() if matrix.in_features % BLOCK == 0}
    scratch = job.scratch / kind
    scratch.mkdir(exist_ok=True)
    solver = Matrices(grids, search=True, damp=DAMP, correct=correct)
    parts, told = compress(weights, ids_NT, solver, device(), replace(job, scratch=scratch))
    blocks = {name: Blocks(kind, *blocks_of(kind, Rounded(*part))) for name, part in parts.items()}
    return stacked(weights, blocks), told
