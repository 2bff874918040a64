"""Rows of which a share gets, in every batch, an answer that the policy draws at that very step in place of its last one.

What is drawn depends on the step, the seed and the weights alone, so a killed run draws the same answers again. Nothing
is differentiated through the drawing: an answer is read as if it had stood in the row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from posttrain.data.batch import Batch
from posttrain.functional.layout import Branch, Tree
from posttrain.functional.seeds import seed_of
from posttrain.models.policy import Models
from posttrain.models.sampler import Sampler, Sampling

from .source import FromRows

OWN = 4  # tells the seed of what is drawn from others


@dataclass(frozen=True)
class FromOwnAnswers(FromRows):
    """`share` of the rows are answered by the policy, within `longest` tokens a row; of an answer alone, where question
    and answer are `apart`."""

    sampler: Sampler
    sampling: Sampling
    share: float
    longest: int
    stops: frozenset[int]
    apart: bool = False
    _told: dict[str, float] = field(default_factory=dict)

    def draw(self, step: int, models: Models) -> Batch:
        trees = super().draw(step, models).trees
        seed = seed_of(self.seed, OWN, step)
        chance = torch.rand(len(trees), generator=torch.Generator().manual_seed(seed))
        drawn = [row for row, each in enumerate(chance.tolist()) if each < self.share]
        answered = dict(zip(drawn, self._answered([trees[row] for row in drawn], seed), strict=True))
        return Batch(tuple(answered.get(row, tree) for row, tree in enumerate(trees)))

    def _answered(self, trees: list[Tree], seed: int) -> list[Tree]:
        """The rows with an answer of the policy."""
        if not trees:
            return []
        asked = [before_last_answer(tree) for tree in trees]
        rooms = [self.longest - (0 if self.apart else len(ids)) for ids in asked]
        drawn = self.sampler.sample(asked, self.sampling, seed)
        answers = [tuple(ids[:room]) for ids, room in zip(drawn, rooms, strict=True)]
        self._told["answer_tokens"] = sum(map(len, answers)) / len(answers)
        self._told["finished"] = sum(ids[-1:] != () and ids[-1] in self.stops for ids in answers) / len(answers)
        return [Tree(ids, (Branch(answer, (True,) * len(answer)),)) for ids, answer in zip(asked, answers, strict=True)]

    def told(self) -> Mapping[str, float]:
        return self._told


def before_last_answer(tree: Tree) -> tuple[int, ...]:
    """The tokens of a row that stand before the last run of learnt ones."""
    (branch, *_) = tree.branches
    start = max((place + 1 for place, trained in enumerate(branch.trained) if trained), default=0)
    while start and branch.trained[start - 1]:
        start -= 1
    return (*tree.prompt, *branch.tokens[:start])
