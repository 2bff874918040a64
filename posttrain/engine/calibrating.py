"""What a compression looks at: the user's rows, as the model reads them, behind each other in texts of one length.

Rows are rendered with the chat template, drawn in an order of the seed and cut into pieces of `length` tokens, so that there
is no padding that a statistic would have to leave out. The beginning of a text may be the middle of a row.

Shapes: N texts of T tokens.
"""

from collections.abc import Iterator
from itertools import chain

import torch
from pydantic import Field
from torch import Tensor

from posttrain.data.planting import picked, shape_of, shelved
from posttrain.data.trees import shorten
from posttrain.functional.layout import Tree
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


def calibration(told: Calibrated, model: Model, data: tuple[Dataset, ...], job: Job) -> Tensor:
    """(N, T): the token ids of the texts, as a model reads them. Raises DataError when the rows do not fill them."""
    return calibration_and_aside(told, model, data, job, 0)[0]


def calibration_and_aside(
    told: Calibrated, model: Model, data: tuple[Dataset, ...], job: Job, more: int
) -> tuple[Tensor, tuple[Tree, ...]]:
    """(N, T), and rows of as many tokens as some `more` texts have, none of which stands in one of the N: conversations whole, so
    that answers can be told from questions, and of texts the first T tokens. Raises DataError when the rows do not suffice."""
    length = min(told.length, load_context(model))
    order = _drawn(told, model, data, job)
    ids: list[int] = []
    looked_at: set[Tree] = set()
    while len(ids) < told.sequences * length and (tree := next(order, None)):
        ids += chain(tree.prompt, *(branch.tokens for branch in tree.branches))
        looked_at.add(tree)
    aside: list[Tree] = []
    wanted = left = more * length
    while left > 0 and (tree := next(order, None)):
        if tree not in looked_at:
            is_text = len(tree.prompt) == 1  # nothing but its first token is not learnt
            aside.append((is_text and shorten(tree, length, apart=False)) or tree)
            left -= aside[-1].n_tokens()
    found = len(ids) + wanted - max(left, 0)
    if len(ids) < told.sequences * length or left > 0:
        raise _too_few(found, told.sequences + more, more, length)
    return torch.tensor(ids[: told.sequences * length]).view(told.sequences, length), tuple(aside)


def _drawn(told: Calibrated, model: Model, data: tuple[Dataset, ...], job: Job) -> Iterator[Tree]:
    """All rows, in an order of the seed."""
    form, context = load_format(model, load_tokenizer(model)), load_context(model)
    shelves = [
        shelved(dataset, shape_of(dataset, SHAPES), form, context, job.scratch / f"data-{n}", lambda rows: None)
        for n, dataset in enumerate(data)
    ]
    planted = picked(shelves, [each.weight for each in data], [each.epochs for each in data], job.seed)
    for line in planted.decisions:
        job.note(line)
    return (planted.trees[row] for row in order_of(len(planted.trees), job.seed, 0).tolist())


def _too_few(found: int, wanted: int, more: int, length: int) -> DataError:
    fits = max(1, found // length - more)
    shorter = f" and `length: {found // (1 + more)}`" if found < (1 + more) * length else ""
    return DataError(
        f"The rows hold {found} tokens, and {wanted} texts of {length} need {wanted * length}. Give more rows, or write "
        f"`sequences: {fits}`{shorter}."
    )
