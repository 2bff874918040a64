"""A policy that is a table: one prompt, answers of one token. All that reinforcement learning is to find is known in closed
form, and what it expects can be summed over all answers.

    maximise  E_pi[r] - b KL(pi || ref)     is reached by     pi = ref exp(r / b) / Z
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from posttrain.data.batch import Batch
from posttrain.engine.source import Source
from posttrain.functional.layout import Branch, Tree
from posttrain.models.policy import Models, Policy
from posttrain.models.scorer import Scorer

REWARDS = torch.tensor([1.0, 0.2, 0.0, -0.5, 0.7], dtype=torch.float64)
REFERENCE = torch.tensor([0.05, 0.3, 0.4, 0.2, 0.05], dtype=torch.float64)
PRICE = 0.4


class Table(Policy):
    """Log-probabilities of the tokens, whatever came before."""

    def __init__(self, logits: Tensor) -> None:
        self.model, self.adapter, self.micro_tokens = nn.Module(), None, 10**6
        self.logits = self.model.logits = nn.Parameter(logits.clone())

    @property
    def device(self) -> torch.device:
        return self.logits.device

    def logps(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        tokens = torch.tensor([token for branch in batch.branches for token in branch.tokens])
        return (self.logits / temperature).log_softmax(-1)[tokens]

    def probabilities(self) -> Tensor:
        return self.logits.detach().softmax(-1)


class TableCritic(Scorer):
    """One value for the one prompt."""

    def __init__(self, value: float = 0.0) -> None:
        self.model, self.adapter, self.own_head, self.offset = nn.Module(), None, None, 0.0
        self.model.value = nn.Parameter(torch.tensor([value], dtype=torch.float64))

    def values(self, batch: Batch) -> Tensor:
        return self.model.value.expand(int(batch.n_trained.sum()))

    def rewards(self, batch: Batch) -> Tensor:
        raise AssertionError("every answer of a bandit ends")


def models(probabilities: Tensor, value: float = 0.0) -> Models:
    return Models(Table(probabilities.log()), Table(REFERENCE.log()), TableCritic(value))


def answered(tokens: Tensor, groups: int = 1, price: float = PRICE) -> Batch:
    """A batch of answers, each group of them to a prompt of its own."""
    trees = tuple(
        Tree((0,), tuple(Branch((int(token),), (True,)) for token in each)) for each in tokens.reshape(groups, -1)
    )
    batch = Batch(trees)
    told = torch.tensor([branch.tokens[0] for branch in batch.branches])
    n = len(batch)
    return batch.having(
        reward=REWARDS[told],
        finished=torch.ones(n),
        penalty=torch.zeros(n),
        group=batch.tree_of,
        longest=torch.ones(n),
        kl_coefficient=torch.full((n,), price, dtype=torch.float64),
    )


@dataclass
class Drawn(Source):
    """`n` answers of the policy as it is, drawn evenly spread, so that few tell much."""

    n: int

    def draw(self, step: int, models: Models) -> Batch:
        assert isinstance(models.policy, Table)
        draw = torch.Generator().manual_seed(step)
        even = (torch.arange(self.n) + torch.rand(1, generator=draw)) / self.n
        tokens = torch.searchsorted(models.policy.probabilities().cumsum(0), even.double())
        return answered(tokens.clamp(max=len(REWARDS) - 1))


def gained(policy: Table, price: float = PRICE) -> Tensor:
    """What is to be maximised, summed over all answers."""
    logps = policy.logits.log_softmax(-1)
    return (logps.exp() * (REWARDS - price * (logps - REFERENCE.log()))).sum()
