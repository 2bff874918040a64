"""Keys and values of answers in flight, and the attention of a step that gives each of them one more token.

An answer has a slot; so has a prompt that several answers in flight share, which is then kept and read once for all of
them. A step writes new keys and values behind those of each answer, and a query looks at its prompt's and its answer's
places. What lies behind is left from others and hidden by a bias of -inf. Buffers hold no gaps, so that every product is
one batched product over whole buffers, without a copy.

    s = [scale q k_prompt^T, scale q k_answer^T] + bias,  p = softmax(s),  o = p_prompt v_prompt + p_answer v_answer

For the prompt's product its answers' queries lie below each other: M places a prompt, as many as the most answers of
one prompt. An answer whose prompt is nobody else's has both in its own slot.

Shapes: S answers, G prompts, M places, H query heads, K key/value heads, R = H / K, D head width, A places of an answer,
P of a prompt. Keys lie as (S, K, D, A), the order that their product is fastest in; values as (S, K, A, D).
"""

import sys
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from transformers import Cache

Pairs = Sequence[tuple[Tensor, Tensor]]
Owner = TypeVar("Owner")

GRAIN = 32  # slots are wide by multiples of it
SPARE = 0.75  # slots are made fewer or narrower when no more than this share of them is needed


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


class Slots(Generic[Owner]):
    """Buffers of every layer in slots of `width` places; `owners` says whose each slot is."""

    def __init__(self) -> None:
        self.owners: list[Owner | None] = []
        self.width = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def taken(self) -> list[Owner]:
        return [owner for owner in self.owners if owner is not None]

    def seat(self, new: Sequence[tuple[Owner, Pairs]], width: int) -> bool:
        """Gives slots to new owners, which begin with keys and values (K, n, D) of every layer. Makes the slots more,
        fewer, wider or narrower where that is due: whether owners moved."""
        n, width = rounded(len(self.taken()) + len(new)), -(-width // GRAIN) * GRAIN
        resized = not _fits(n, len(self.owners)) or not _fits(width, self.width)
        if resized:
            if not self.keys:
                self.keys = [keys.new_empty(0, len(keys), keys.shape[2], 0).to(v.dtype) for keys, v in new[0][1]]
                self.values = [values.new_empty(0, len(values), 0, values.shape[2]) for _, values in new[0][1]]
            self._resize(n, width)
        free = (slot for slot, owner in enumerate(self.owners) if owner is None)
        for (owner, pairs), slot in zip(new, free, strict=False):
            self.owners[slot] = owner
            for layer, (keys, values) in enumerate(pairs):
                n_places = keys.shape[1]
                self.keys[layer][slot, ..., :n_places] = keys.transpose(1, 2)
                self.values[layer][slot, :, :n_places] = values
        return resized

    def _resize(self, n: int, width: int) -> None:
        kept = [slot for slot, owner in enumerate(self.owners) if owner is not None]
        chosen = torch.tensor(kept, dtype=torch.long, device=self.keys[0].device)
        same = min(width, self.width)
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            # zeros: what nobody has written yet is multiplied by a probability of 0
            self.keys[layer] = keys.new_zeros(n, *keys.shape[1:3], width)
            self.values[layer] = values.new_zeros(n, values.shape[1], width, values.shape[3])
            self.keys[layer][: len(kept), ..., :same] = keys[..., :same][chosen]
            self.values[layer][: len(kept), :, :same] = values[:, :, :same][chosen]
        self.owners = [*(self.owners[slot] for slot in kept), *[None] * (n - len(kept))]
        self.width = width


def rounded(n: int) -> int:
    """A number of slots of which few occur."""
    return n if n < 4 else -(-n // 4) * 4


def _fits(needed: int, there: int) -> bool:
    return SPARE * there < needed <= there


class Sharing:
    """Which answers look at which prompt: `prompt_of` (S,) is the prompt of each, `n` (G,) the length of the prompts."""

    def __init__(self, prompt_of: Sequence[int | None], lengths: Sequence[int], width: int, device: torch.device):
        self.n_prompts, self.device = len(lengths), device
        members: list[list[int]] = [[] for _ in lengths]
        for slot, prompt in enumerate(prompt_of):
            if prompt is not None:
                members[prompt].append(slot)
        self.most = max(map(len, members))
        places = [[*slots, *[0] * (self.most - len(slots))] for slots in members]  # a place too many holds any answer
        at = [0] * len(prompt_of)
        for prompt, slots in enumerate(members):
            for member, slot in enumerate(slots):
                at[slot] = prompt * self.most + member
        self.answer_at = torch.tensor(places, device=device)  # (G, M)
        self.place_of = torch.tensor(at, device=device)  # (S,)
        hidden = torch.arange(width, device=device) >= torch.tensor(lengths, device=device)[:, None]
        bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)
        self.bias = bias[:, None].expand(-1, self.most, -1)  # (G, M, P)
        self._moves: dict[int, tuple[Tensor, Tensor]] = {}

    def moves(self, heads: int) -> tuple[Tensor, Tensor]:
        """For K heads: which rows (answer, head) lie at (prompt, head, place), and the way back."""
        if heads not in self._moves:
            head = torch.arange(heads, device=self.device)
            there = self.answer_at[:, None] * heads + head[:, None]  # (G, K, M)
            prompt, member = self.place_of // self.most, self.place_of % self.most
            back = (prompt[:, None] * heads + head) * self.most + member[:, None]  # (S, K)
            self._moves[heads] = there.flatten(), back.flatten()
        return self._moves[heads]


class InFlight(Cache, Generic[Owner]):
    """Answers in flight as the cache that a model's step is given. `narrowest` is the shortest window of a layer."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.answers: Slots[Owner] = Slots()
        self.prompts: Slots[Any] = Slots()
        self.sharing: Sharing | None = None
        self.narrowest = sys.maxsize
        self._slots = self._at = torch.empty(0, dtype=torch.long)

    def aim(self, at: Tensor) -> Tensor:
        """The next step writes at the places `at` (S,) of the answers. Returns its bias: (S, 1, 1, A), or (G, M, 1, P + A)
        where prompts are shared."""
        self._at, self._slots = at, torch.arange(len(at), device=at.device)
        hidden = torch.arange(self.answers.width, device=at.device) > at[:, None]
        bias = torch.zeros(hidden.shape, device=at.device).masked_fill_(hidden, -torch.inf)
        if self.sharing is None:
            return bias[:, None, None]
        return torch.cat([self.sharing.bias, bias[self.sharing.answer_at]], -1)[:, :, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes keys and values (S, K, 1, D) of a step; returns all of the answers, (S, K, D, A) and (S, K, A, D)."""
        keys, values = self.answers.keys[layer_idx], self.answers.values[layer_idx]
        keys[self._slots, :, :, self._at] = key_states[:, :, 0].to(keys.dtype)
        values[self._slots, :, self._at] = value_states[:, :, 0]
        self._layer = layer_idx
        return keys, values

    def attend(self, query: Tensor, bias: Tensor, scale: float) -> Tensor:
        """(S, H, 1, D) queries of the layer that was updated last -> (S, 1, H, D)."""
        keys, values = self.answers.keys[self._layer], self.answers.values[self._layer]
        n, heads, shared = len(query), keys.shape[1], self.sharing
        q = (query * scale).to(values.dtype).reshape(n * heads, -1, query.shape[3])
        s = torch.bmm(q, keys.flatten(0, 1))
        if shared is None:
            s.view(n, -1, s.shape[2]).add_(bias[:, 0])
            return torch.bmm(_softmax(s), values.flatten(0, 1)).view(n, 1, query.shape[1], -1)
        prompt_keys, prompt_values = self.prompts.keys[self._layer], self.prompts.values[self._layer]
        there, back = shared.moves(heads)
        groups, width = len(there) // shared.most, prompt_keys.shape[3]
        q_there, s_there = (x.flatten(1)[there].view(groups, -1, x.shape[2]) for x in (q, s))
        both = torch.cat([torch.bmm(q_there, prompt_keys.flatten(0, 1)), s_there], -1)
        both.view(shared.n_prompts, heads, shared.most, -1, both.shape[2]).add_(bias[:, None])
        p = _softmax(both)
        o = torch.bmm(p[..., :width], prompt_values.flatten(0, 1)).view(len(there), -1)[back]
        p_back = p[..., width:].reshape(len(there), -1)[back].view(s.shape)
        return torch.bmm(p_back, values.flatten(0, 1)).view(o.shape).add_(o).view(n, 1, query.shape[1], -1)


def _softmax(s: Tensor) -> Tensor:
    return s.softmax(-1).to(s.dtype)  # sums in fp32 inside, whatever the dtype
