"""Sampling: prompts in, answers out. One protocol; the engine here is any transformers model.

Answers fly together (`decoding`) where a self-test finds that exact; elsewhere padded rows of like length decode together
and the finished ones leave. Each answer draws from a generator of its own, so that what is drawn for a prompt does not
depend on its neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor

from posttrain.functional.seeds import seed_of
from posttrain.schema.errors import DataError
from posttrain.schema.settings import Settings

from .decoding import BATCH_TOKENS, Answer, Asked, Choose, Flight, reach
from .drawing import drawn, likeliest
from .policy import Policy
from .seq2seq import Writing


class Sampling(Settings):
    """How answers are drawn."""

    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(0.0, ge=0)
    """How far draws stray from the likeliest token; 0 takes the likeliest."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw among the likeliest tokens that together hold this much probability."""


class Sampler(Protocol):
    """Anything that answers prompts."""

    def sample(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int = 0, n: int = 1
    ) -> list[list[int]]:
        """`n` answers for each prompt, in order (those of the first prompt, those of the second), as token ids with the
        stop token if one was drawn."""


@dataclass
class TransformersSampler:
    """Samples from a policy, at most `batch` answers at once. `watch` is called with the number of answers so far."""

    policy: Policy
    stop_ids: frozenset[int]
    batch: int = 64
    watch: Callable[[int], None] = field(default=lambda done: None)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seed: int = 0,
        n: int = 1,
        numbers: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """As `Sampler` says; `numbers` name the draws of each answer, where they are not to be those of its place."""
        self._check(prompts)
        asked = [Asked(prompt) for prompt in prompts]
        answers = [
            Answer(row, asked[row // n], min(sampling.max_new_tokens, self.policy.room(len(prompts[row // n]))))
            for row in range(len(prompts) * n)
        ]
        choose = Drawing(sampling, seed, numbers)
        together = max((answer.longest() for answer in answers), default=0) <= reach(self.policy)
        with self.policy.precision(), self.policy.answering():
            if together:
                Flight(self.policy, choose, self.stop_ids, self.batch, self.watch).run(answers)
            else:
                self._in_batches(answers, choose)
        return [answer.tokens for answer in answers]

    def _check(self, prompts: Sequence[Sequence[int]]) -> None:
        """Raises DataError for a prompt without tokens and for one that leaves no room for an answer."""
        if not all(prompts):
            raise DataError("A prompt has no tokens. Leave it out or give it some.")
        longest, context = max(map(len, prompts), default=0), self.policy.context
        if not self.policy.room(longest):
            beside = "" if self.policy.encodes else " with its answer"
            raise DataError(
                f"A prompt has {longest} tokens and the model reads {context}{beside}. "
                "Shorten the prompts or show fewer examples."
            )

    def _in_batches(self, answers: Sequence[Answer], choose: Choose) -> None:
        """Rows of like length decode together, padded; those that are finished leave."""
        order = sorted(answers, key=lambda answer: len(answer.asked.ids))
        start = 0
        while start < len(order):
            rows = order[start : start + self.batch]
            rows = rows[: max(1, BATCH_TOKENS // max(answer.longest() for answer in rows))]
            self._decode(rows, choose)
            start += len(rows)
            self.watch(start)

    def _decode(self, answers: Sequence[Answer], choose: Choose) -> None:
        writing = (Writing if self.policy.encodes else Continuing)(self.policy, [a.asked.ids for a in answers])
        alive, tokens = list(answers), None
        while True:
            tokens = choose(writing.logits(tokens).float(), alive)
            for answer, token in zip(alive, tokens.tolist(), strict=True):
                answer.tokens.append(token)
            keep = [i for i, answer in enumerate(alive) if not answer.over(self.stop_ids)]
            if not keep:
                return
            if len(keep) < len(alive):
                chosen = torch.tensor(keep, device=tokens.device)
                writing.keep(chosen)
                tokens, alive = tokens[chosen], [alive[i] for i in keep]


class Continuing:
    """Texts on their way: `logits` after each token, and rows that are finished leave. Virtual tokens stand before the
    prompts if there are any."""

    def __init__(self, policy: Policy, prompts: Sequence[Sequence[int]]):
        from transformers import DynamicCache

        self.model, config = policy.causal(), policy.model.config
        self.ids, self.mask = _left_padded(prompts, policy)
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.cache = DynamicCache(config=config)
        if root := policy.root():
            n = policy.n_virtual
            self.cache = root.grown(len(self.mask), config)
            self.mask, self.positions = (
                torch.cat([self.mask.new_ones(len(self.mask), n), self.mask], 1),
                self.positions + n,
            )

    def logits(self, tokens: Tensor | None) -> Tensor:
        """(rows, V): what follows the last tokens (rows,), or the prompts."""
        if tokens is not None:
            self.ids, self.positions = tokens[:, None], self.positions[:, -1:] + 1
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        made: Tensor = self.model(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            logits_to_keep=1,
        ).logits
        return made[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on."""
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]


def _left_padded(prompts: Sequence[Sequence[int]], policy: Policy) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[policy.pad_id] * (width - len(p)) + list(p) for p in prompts], device=policy.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=policy.device)
    return ids, mask


class Drawing:
    """Chooses tokens: the likeliest, or by uniform numbers, of which each answer has a generator of its own."""

    def __init__(self, sampling: Sampling, seed: int, numbers: Sequence[int] | None = None):
        self.sampling, self.seed, self.numbers = sampling, seed, numbers

    def __call__(self, logits: Tensor, answers: Sequence[Answer]) -> Tensor:
        if self.sampling.temperature == 0:
            return likeliest(logits)
        for answer in answers:
            if not answer.draws:
                number = self.numbers[answer.row] if self.numbers is not None else answer.row
                generator = torch.Generator().manual_seed(seed_of(self.seed, number))
                answer.draws = torch.rand(answer.limit, generator=generator, dtype=torch.float64).tolist()
        uniform = torch.tensor([answer.draws[len(answer.tokens)] for answer in answers], dtype=torch.float64)
        probabilities = (logits / self.sampling.temperature).softmax(-1)
        return drawn(probabilities, uniform.to(logits.device), self.sampling.top_p)
