"""The reference's log-probabilities, computed once for every row and kept: a frozen model says the same in each epoch.

Rows are computed in their own order and never in that of the batches, so that a resumed run finds the same bytes.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree, answer_order
from posttrain.models.policy import Policy

AT_ONCE = 4096  # rows in memory


class Remembered:
    """Answers `answer_logps` for the trees it has seen, without the model: a number for each answer and a name for each
    tree are all it keeps."""

    def __init__(self, reference: Policy, *asked: Sequence[Tree]) -> None:
        self._row: dict[tuple[bytes, int], int] = {}
        logps: list[Tensor] = []
        n = 0
        for trees in asked:
            for start in range(0, len(trees), AT_ONCE):
                some = Batch(tuple(trees[start : start + AT_ONCE]))
                names = list(map(name_of, some.trees))
                places = [(names[tree], branch) for _, tree, branch in answer_order(some.trees)]
                with torch.no_grad():
                    logps.append(reference.answer_logps(some))
                self._row |= {place: n + answer for answer, place in enumerate(places)}
                n += len(places)
        self._logps = torch.cat(logps)

    def answer_logps(self, batch: Batch) -> Tensor:
        """(B,): what the reference gave for the batch's answers. Raises KeyError for a tree it has not seen."""
        names = list(map(name_of, batch.trees))
        rows = [self._row[names[tree], branch] for _, tree, branch in answer_order(batch.trees)]
        return self._logps[torch.tensor(rows, device=self._logps.device)]


def name_of(tree: Tree) -> bytes:
    """What tells a tree from any other."""
    pieces = tree.prompt, *(piece for branch in tree.branches for piece in (branch.tokens, branch.trained))
    told = b"".join(np.asarray([len(piece), *piece], np.int64).tobytes() for piece in pieces)
    return hashlib.blake2b(told, digest_size=16).digest()
