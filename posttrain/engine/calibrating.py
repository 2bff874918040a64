"""What a compression looks at: the user's rows, as the model reads them, behind each other in texts of one length.

Rows are rendered with the chat template, drawn in an order of the seed and cut into pieces of `length` tokens, so that there
is no padding that a statistic would have to leave out. The beginning of a text may be the middle of a row.

Shapes: N texts of T tokens.
"""

from itertools import chain

import torch
from pydantic import Field
from torch import Tensor

from posttrain.data.planting import picked, shape_of, shelved
from posttrain.models.load import load_context, load_format, load_tokenizer
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Row, Text
from posttrain.schema.settings import DatasetRef, Settings

from .job import Job
from .source import order_of

SHAPES: tuple[type[Row], ...] = (Conversation, Text)


class Calibrated(Settings):
    """What a method can be told that looks at texts."""

    data: DatasetRef
    """Conversations or texts like those that the model will meet; never those that it is tested on."""
    sequences: int = Field(128, ge=1)
    """How many texts to look at; more cost time and help until about 128."""
    length: int = Field(512, ge=2)
    """Tokens in each; no more than the model has positions for."""

    def shapes(self) -> tuple[type[Row], ...]:
        return SHAPES


def calibration(told: Calibrated, model: Model, data: tuple[Dataset, ...], job: Job, more: int = 0) -> Tensor:
    """(N, T): the token ids of the texts, as a model reads them, with some `more` of other rows behind them. Raises DataError
    when the rows do not fill them."""
    form, context = load_format(model, load_tokenizer(model)), load_context(model)
    length = min(told.length, context)
    shelves = [
        shelved(dataset, shape_of(dataset, SHAPES), form, context, job.scratch / f"data-{n}", lambda rows: None)
        for n, dataset in enumerate(data)
    ]
    planted = picked(shelves, [each.weight for each in data], [each.epochs for each in data], job.seed)
    for line in planted.decisions:
        job.note(line)
    ids: list[int] = []
    wanted = told.sequences + more
    for row in order_of(len(planted.trees), job.seed, 0).tolist():
        tree = planted.trees[row]
        ids += chain(tree.prompt, *(branch.tokens for branch in tree.branches))
        if len(ids) >= wanted * length:
            return torch.tensor(ids[: wanted * length]).view(wanted, length)
    fits = max(1, len(ids) // length - more)
    shorter = f" and `length: {len(ids) // (1 + more)}`" if len(ids) < (1 + more) * length else ""
    raise DataError(
        f"The rows hold {len(ids)} tokens, and {wanted} texts of {length} need {wanted * length}. Give more rows, or write "
        f"`sequences: {fits}`{shorter}."
    )
