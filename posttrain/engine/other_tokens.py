"""A teacher of another tokenizer: it reads the same rows as its own chat template and tokens write them, and is compared
where its tokens end at the same letter as those of the model that learns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.data.alignment import aligned
from posttrain.data.shelf import Picked, Shelf
from posttrain.functional.layout import Tree
from posttrain.functional.uld import Groups
from posttrain.models.expected import Aligned
from posttrain.models.policy import Policy
from posttrain.schema.errors import DataError

from .reference import name_of

LOOKED_AT = 256  # rows of which it is told how many tokens are aligned


@dataclass
class OtherTokens:
    """A teacher that is asked about the policy's rows by its own ones. `written` are these, and `places` which of them
    says what a row of the policy says, by its name."""

    teacher: Policy
    policy: Policy
    written: Sequence[Tree]
    places: Mapping[bytes, int]
    _groups: dict[bytes, NDArray[np.int32]] = field(default_factory=dict)

    def expects(self, trees: Sequence[Tree], deep: bool = False) -> Aligned:
        """What it expects at the ends of groups, and where these are among the learnt tokens of both. A row that its
        template writes as more or fewer texts, or in other words, has no groups."""
        spans, asked = [np.empty((0, 4), np.int32)], []
        ours, theirs = 0, 0
        for tree in trees:
            found, other = self.groups(tree)
            if len(found):
                assert other is not None
                spans.append(found + np.array([ours, ours, theirs, theirs], np.int32))
                theirs += other.branches[0].n_trained()
                asked.append(other)
            ours += tree.branches[0].n_trained()
        where = torch.from_numpy(np.concatenate(spans).astype(np.int64)).to(self.policy.device)
        groups = (Groups.of_spans(where[:, i], where[:, i + 1]) for i in (0, 2))
        return Aligned(self.teacher.expects(asked) if asked else None, *groups)

    def groups(self, tree: Tree) -> tuple[NDArray[np.int32], Tree | None]:
        """The groups of a row of the policy, and the teacher's row; see `data.alignment.aligned`."""
        name = name_of(tree)
        place = self.places.get(name)
        if place is None:
            return np.empty((0, 4), np.int32), None
        other = self.written[place]
        if name not in self._groups:
            self._groups[name] = aligned(tree, other, self.policy.tokenizer, self.teacher.tokenizer)
        return self._groups[name], other

    def facts(self, trees: Sequence[Tree]) -> dict[str, float]:
        """How much of the answers of the first rows the two can be compared on. Raises DataError where it is nothing."""
        n, n_tokens, n_groups, n_alone = 0, 0, 0, 0
        for tree in trees[:LOOKED_AT]:
            found, _ = self.groups(tree)
            n += tree.branches[0].n_trained()
            n_tokens += int((found[:, 1] - found[:, 0] + 1).sum())
            n_groups += len(found)
            n_alone += int(((found[:, 1] == found[:, 0]) & (found[:, 3] == found[:, 2])).sum())
        if not n_groups:
            raise DataError(
                "The teacher's chat template writes no answer as that of the model that learns does, so that the two cannot "
                "be compared. Give the model that learns another `chat_template`, or learn the teacher's answers as text: "
                "`sample` and then `sft`."
            )
        return {"tokens_aligned": n_tokens / n, "tokens_alike": n_alone / n_groups}


def partners(ours: Sequence[Shelf], theirs: Sequence[Shelf]) -> tuple[Sequence[Tree], dict[bytes, int]]:
    """The teacher's rows, and which of them each of the policy's belongs to, by its name: those of a row of the data, where
    both have as many."""
    n = sum(map(len, theirs))
    return Picked(theirs, np.arange(n)), dict(_pairs(ours, theirs))


def _pairs(ours: Sequence[Shelf], theirs: Sequence[Shelf]) -> Iterator[tuple[bytes, int]]:
    before = 0
    for shelf, other in zip(ours, theirs, strict=True):
        at, at_other = 0, before
        for n, n_other in zip(shelf.rows[:, 0].tolist(), other.rows[:, 0].tolist(), strict=True):
            for i in range(n if n == n_other else 0):
                yield name_of(shelf[at + i]), at_other + i
            at, at_other = at + n, at_other + n_other
        before += len(other)
