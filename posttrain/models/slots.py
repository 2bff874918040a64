"""Keys and values of texts in flight, and the attention of a step that gives each of them one more token.

A text has a slot. A step writes the new key and value behind those of the slot, and the new query looks at all places up
to there; what lies behind is left from other texts and is hidden by a bias of -inf. Slots hold no gaps, so that every
product is one batched product over whole buffers, without a copy.

    s = scale q k^T + bias,  p = softmax(s),  o = p v

Shapes: S slots, H query heads, K key/value heads, T places, D head width. Keys lie as (S, K, D, T), the order that their
product is fastest in; values as (S, K, T, D).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

Pairs = Sequence[tuple[Tensor, Tensor]]


class Reading(Cache):
    """Notes what every layer makes of a packed row: keys and values, (1, K, T, D) each."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.pairs.append((key_states, value_states))
        return key_states, value_states

    def part(self, start: int, end: int) -> Pairs:
        """Those of the places `start..end`, (K, n, D) each."""
        return [(keys[0, :, start:end], values[0, :, start:end]) for keys, values in self.pairs]


class Slots(Cache):
    """The buffers of every layer. `n` slots with `width` places each."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.n = self.width = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._slots = self._at = torch.empty(0, dtype=torch.long)

    def resize(self, kept: Sequence[int], n: int, width: int, like: Pairs) -> None:
        """Makes `n` slots of `width` places; the texts of the slots `kept` move to the first of them. `like` shows the
        shapes."""
        if not self._keys:
            self._keys = [keys.new_zeros(0, len(keys), keys.shape[2], 0).to(values.dtype) for keys, values in like]
            self._values = [values.new_zeros(0, len(values), 0, values.shape[2]) for _, values in like]
        chosen = torch.tensor(kept, dtype=torch.long, device=self._keys[0].device)
        same = min(width, self.width)
        for layer, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            # zeros: what no text has written yet is multiplied by a probability of 0
            self._keys[layer] = keys.new_zeros(n, *keys.shape[1:3], width)
            self._values[layer] = values.new_zeros(n, values.shape[1], width, values.shape[3])
            self._keys[layer][: len(kept), ..., :same] = keys[..., :same][chosen]
            self._values[layer][: len(kept), :, :same] = values[:, :, :same][chosen]
        self.n, self.width = n, width
        self._slots = torch.arange(n, device=chosen.device)

    def put(self, slot: int, pairs: Pairs) -> None:
        """Begins a slot with keys and values (K, n, D) of every layer."""
        for layer, (keys, values) in enumerate(pairs):
            places = keys.shape[1]
            self._keys[layer][slot, ..., :places] = keys.transpose(1, 2)
            self._values[layer][slot, :, :places] = values

    def aim(self, at: Tensor) -> Tensor:
        """The next step writes at the places `at` (S,). Returns its bias, (S, 1, 1, T)."""
        self._at = at
        hidden = torch.arange(self.width, device=at.device) > at[:, None]
        return torch.zeros(hidden.shape, device=at.device).masked_fill_(hidden, -torch.inf)[:, None, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes keys and values (S, K, 1, D) of a step; returns all keys (S, K, D, T) and values (S, K, T, D)."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[self._slots, :, :, self._at] = key_states[:, :, 0].to(keys.dtype)
        values[self._slots, :, self._at] = value_states[:, :, 0]
        return keys, values


def step_attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """(S, H, 1, D), (S, K, D, T), (S, K, T, D), (S, 1, 1, T) -> (S, 1, H, D)."""
    n, heads = query.shape[:2]
    q = (query * scale).to(values.dtype).reshape(n * keys.shape[1], -1, query.shape[3])
    s = torch.bmm(q, keys.flatten(0, 1))
    s.view(n, heads, -1).add_(bias[:, 0])
    p = s.softmax(-1).to(s.dtype)  # sums in fp32 inside, whatever the dtype
    return torch.bmm(p, values.flatten(0, 1)).view(n, 1, heads, -1)
