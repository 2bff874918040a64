"""The reference's log-probabilities, computed once for every row and kept: a frozen model says the same in each epoch.

Rows are computed in their own order and never in that of the batches, so that a resumed run finds the same bytes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree
from posttrain.models.policy import Policy


class Remembered:
    """Answers `answer_logps` for the trees it has seen, without the model: (trees, branches) numbers are all it keeps."""

    def __init__(self, reference: Policy, trees: Sequence[Tree]) -> None:
        self._row = {tree: row for row, tree in enumerate(trees)}
        with torch.no_grad():
            logps = reference.answer_logps(Batch(tuple(trees)))  # (branches x trees,)
        self._logps = logps.view(-1, len(trees))

    def answer_logps(self, batch: Batch) -> Tensor:
        """(B,): what the reference gave for the batch's answers. Raises KeyError for a tree it has not seen."""
        rows = torch.tensor([self._row[tree] for tree in batch.trees], device=self._logps.device)
        return self._logps[:, rows].flatten()
