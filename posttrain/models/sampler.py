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
        if longest >= context:
            raise DataError(
                f"A prompt has {longest} tokens and the model reads {context} with its answer. "
                "Shorten the prompts or show fewer examples."
            )

    def _decode(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], sampling: Sampling, seed: int
    ) -> list[list[int]]:
        from transformers import DynamicCache

        answers: list[list[int]] = [[] for _ in prompts]
        draws = _draws(rows, sampling, seed)
        ids, mask = self._left_padded(prompts)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache, alive = DynamicCache(config=self.policy.model.config), list(range(len(prompts)))
        for step in range(min(sampling.max_new_tokens, self.policy.context - ids.shape[1])):
            logits = self.policy.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            ).logits[:, -1]
            tokens = _choose(logits.float(), sampling, draws[alive, step] if draws is not None else None)
            for row, token in zip(alive, tokens.tolist(), strict=True):
                answers[row].append(token)
            keep = [i for i, token in enumerate(tokens.tolist()) if token not in self.stop_ids]
            if not keep:
                break
            if len(keep) < len(alive):
                chosen = torch.tensor(keep, device=mask.device)
                cache.batch_select_indices(chosen)
                tokens, mask, positions = tokens[chosen], mask[chosen], positions[chosen]
                alive = [alive[i] for i in keep]
            ids, positions = tokens[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return answers

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, prompts))
        pad = self.policy.pad_id
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=self.policy.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.policy.device)
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
