"""Sampling: prompts in, answers out. One protocol; the engine here is any transformers model.

Rows of like length decode together, the finished ones leave the batch, and each row draws from a generator of its own,
so that what is drawn for a prompt does not depend on its neighbours.
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

from .policy import Policy
from .seq2seq import Writing

BATCH_TOKENS = 16_384


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

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int = 0) -> list[list[int]]:
        """An answer for each prompt, in order, as token ids with the stop token if one was drawn."""


@dataclass
class TransformersSampler:
    """Samples from a policy. `watch` is called with the number of prompts answered so far."""

    policy: Policy
    stop_ids: frozenset[int]
    batch: int = 64
    watch: Callable[[int], None] = field(default=lambda done: None)

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int = 0) -> list[list[int]]:
        self._check(prompts)
        answers: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        start = 0
        while start < len(order):
            rows = order[start : start + self.batch]
            longest = len(prompts[rows[-1]]) + sampling.max_new_tokens
            rows = rows[: max(1, BATCH_TOKENS // longest)]
            with self.policy.precision(), self.policy.answering():
                for row, answer in zip(
                    rows, self._decode([prompts[i] for i in rows], rows, sampling, seed), strict=True
                ):
                    answers[row] = answer
            start += len(rows)
            self.watch(start)
        return answers

    def _check(self, prompts: Sequence[Sequence[int]]) -> None:
        """Raises DataError for a prompt that leaves no room for an answer."""
        longest, context = max(map(len, prompts), default=0), self.policy.context
        if not self.policy.room(longest):
            beside = "" if self.policy.encodes else " with its answer"
            raise DataError(
                f"A prompt has {longest} tokens and the model reads {context}{beside}. "
                "Shorten the prompts or show fewer examples."
            )

    def _decode(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], sampling: Sampling, seed: int
    ) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in prompts]
        draws = _draws(rows, sampling, seed)
        writing = (Writing if self.policy.encodes else Continuing)(self.policy, prompts)
        alive, tokens = list(range(len(prompts))), None
        for step in range(min(sampling.max_new_tokens, self.policy.room(max(map(len, prompts))))):
            logits = writing.logits(tokens)
            tokens = _choose(logits.float(), sampling, draws[alive, step] if draws is not None else None)
            for row, token in zip(alive, tokens.tolist(), strict=True):
                answers[row].append(token)
            keep = [i for i, token in enumerate(tokens.tolist()) if token not in self.stop_ids]
            if not keep:
                break
            if len(keep) < len(alive):
                chosen = torch.tensor(keep, device=tokens.device)
                writing.keep(chosen)
                tokens, alive = tokens[chosen], [alive[i] for i in keep]
        return answers


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


def _draws(rows: Sequence[int], sampling: Sampling, seed: int) -> Tensor | None:
    """(rows, max_new_tokens) uniform numbers, each row from its own generator; None when nothing is drawn."""
    if sampling.temperature == 0:
        return None
    generators = [torch.Generator().manual_seed(seed_of(seed, row)) for row in rows]
    return torch.stack([torch.rand(sampling.max_new_tokens, generator=g, dtype=torch.float64) for g in generators])


def _choose(logits: Tensor, sampling: Sampling, uniform: Tensor | None) -> Tensor:
    """(rows, V) -> (rows,): the likeliest token, or the one where the summed probability passes a uniform number."""
    if uniform is None:
        return logits.argmax(-1)
    probabilities, tokens = (
        (logits.double() / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    )
    summed = probabilities.cumsum(-1)
    inside = summed - probabilities < sampling.top_p
    summed = (probabilities * inside).cumsum(-1)
    places = torch.searchsorted(summed, uniform.to(summed.device)[:, None] * summed[:, -1:], right=True)
    return tokens.gather(-1, places.clamp(max=tokens.shape[-1] - 1))[:, 0]
