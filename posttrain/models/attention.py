"""Attention over packed trees, registered with transformers under the name `posttrain`.

Inside `packed_as(plan)` each segment attends to its prompt and, causally, to itself; outside it is transformers' own
scaled-dot-product attention, so one model serves training and sampling. The packed row is cut into blocks of
neighbouring queries: a long segment into several, so that little above the diagonal is computed, short ones together.
Queries and keys of a block are slices of the row, not copies. Their numbers are rounded up, so that few shapes occur:
a CPU compiles a product for each shape and keeps it, which would cost time and memory without end.

    s = scale q k^T + bias,  p = softmax(s),  o = p v
    ds = p (dp - sum(p dp)),  dp = do v^T,  dq = scale ds k,  dk = scale ds^T q,  dv = p^T do

Shapes: T tokens, H query heads, K key/value heads, D head width; a block has n queries and m keys.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from posttrain.functional.layout import Segment

if TYPE_CHECKING:
    from .slots import InFlight

NAME = "posttrain"
LONGEST_BLOCK = 128  # queries
GRAIN = 32  # queries and keys of a block are computed in multiples of it
WASTE = 4096  # pairs of a query and a key computed for nothing rather than that another block is begun


@dataclass(frozen=True)
class Block:
    """Neighbouring queries and the keys that any of them sees: places in the packed row. `bias` (n, m) is -inf where a
    query must not look. `computed` begins with the queries and may hold more, whose results are thrown away."""

    queries: slice
    computed: slice
    keys: tuple[slice, ...]
    bias: Tensor

    @property
    def n(self) -> int:
        return int(self.queries.stop - self.queries.start)


@dataclass(frozen=True)
class Plan:
    """How a packed row attends; made once for a micro-batch and used by every layer."""

    blocks: tuple[Block, ...]
    longest_path: int


class Unsupported(Exception):
    """The model asks for something that packed attention does not compute; padded rows do."""


_plan: ContextVar[Plan | None] = ContextVar("packed attention plan", default=None)


_decoding: ContextVar["InFlight[Any] | None"] = ContextVar("answers in flight", default=None)


@contextmanager
def decoding(answers: "InFlight[Any]") -> Iterator[None]:
    """Within: every answer in flight has one query, and the mask is its bias."""
    token = _decoding.set(answers)
    try:
        yield
    finally:
        _decoding.reset(token)


@contextmanager
def packed_as(plan: Plan | None) -> Iterator[None]:
    """Within: attention follows `plan`; None leaves attention as it is."""
    token = _plan.set(plan)
    try:
        yield
    finally:
        _plan.reset(token)


def plan_in_use() -> Plan | None:
    """The plan that attention follows here."""
    return _plan.get()


def plan_of(segments: Sequence[Segment], device: torch.device | str = "cpu") -> Plan:
    """Cuts long segments into blocks; puts short ones that follow each other into one block while that is cheap."""
    groups: list[list[_Piece]] = []
    useful = 0
    for piece in _pieces(segments):
        pairs = len(piece.queries) * _length(_union([piece]))
        if groups and _fits(groups[-1], piece, useful + pairs):
            groups[-1].append(piece)
            useful += pairs
        else:
            groups.append([piece])
            useful = pairs
    longest = max((s.prompt_end - s.prompt_start + s.end - s.start for s in segments), default=0)
    n_tokens = max((s.end for s in segments), default=0)
    return Plan(tuple(_block(group, n_tokens, device) for group in groups), longest)


def rooted(plan: Plan, n: int) -> Plan:
    """The plan where `n` more keys, which every query sees, stand before those of the row."""
    blocks = []
    for block in plan.blocks:
        keys = (slice(0, n), *(slice(seen.start + n, seen.stop + n) for seen in block.keys))
        bias = torch.cat([block.bias.new_zeros(len(block.bias), n), block.bias], 1)
        blocks.append(replace(block, keys=keys, bias=bias))
    return Plan(tuple(blocks), plan.longest_path + n)


@dataclass(frozen=True)
class _Piece:
    """Queries of one segment, the prompt that they see, and the own places of the segment up to the last of them."""

    queries: range
    prompt: range
    own: range


def _pieces(segments: Sequence[Segment]) -> Iterator[_Piece]:
    """Segments in pieces of LONGEST_BLOCK queries; the last may be shorter."""
    for s in segments:
        for start in range(s.start, s.end, LONGEST_BLOCK):
            stop = min(start + LONGEST_BLOCK, s.end)
            yield _Piece(range(start, stop), range(s.prompt_start, s.prompt_end), range(s.start, stop))


def _fits(group: list[_Piece], piece: _Piece, useful: int) -> bool:
    n = piece.queries.stop - group[0].queries.start
    return n <= LONGEST_BLOCK and n * _length(_union([*group, piece])) - useful <= WASTE


def _union(group: Sequence[_Piece]) -> tuple[slice, ...]:
    """All places that any query of the group sees, as few slices."""
    merged: list[slice] = []
    for seen in sorted((r for piece in group for r in (piece.prompt, piece.own) if r), key=lambda r: r.start):
        if merged and seen.start <= merged[-1].stop:
            merged[-1] = slice(merged[-1].start, max(merged[-1].stop, seen.stop))
        else:
            merged.append(slice(seen.start, seen.stop))
    return tuple(merged)


def _length(slices: Sequence[slice]) -> int:
    return sum(s.stop - s.start for s in slices)


def _rounded(places: slice, n_others: int, n_tokens: int) -> slice:
    """The places with as many behind them as make, with `n_others`, a multiple of GRAIN, where the row has so many."""
    more = -(places.stop - places.start + n_others) % GRAIN
    return slice(places.start, min(places.stop + more, n_tokens))


def _block(group: list[_Piece], n_tokens: int, device: torch.device | str) -> Block:
    *before, last = _union(group)
    keys = (*before, _rounded(last, _length(before), n_tokens))
    queries = slice(group[0].queries.start, group[-1].queries.stop)
    computed = _rounded(queries, 0, n_tokens)
    places_m = torch.cat([torch.arange(s.start, s.stop) for s in keys])
    bias = torch.zeros(computed.stop - computed.start, len(places_m))
    for piece in group:
        places_n1 = torch.arange(piece.queries.start, piece.queries.stop)[:, None]
        in_prompt = (places_m >= piece.prompt.start) & (places_m < piece.prompt.stop)
        in_own = (places_m >= piece.own.start) & (places_m <= places_n1)
        rows = slice(piece.queries.start - queries.start, piece.queries.stop - queries.start)
        bias[rows].masked_fill_(~(in_prompt | in_own), float("-inf"))
    return Block(queries, computed, keys, bias.to(device))


class _PackedAttention(torch.autograd.Function):
    """q (H, T, D), k and v (K, T, D) -> o (H, T, D)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, plan: Plan) -> Tensor:
        o = torch.empty_like(q)
        weights = []
        for block in plan.blocks:
            qs, ks, vs = _queries(q, block, len(k)), _keys(k, block), _keys(v, block)
            s = torch.bmm(qs, ks.transpose(1, 2)).mul_(scale)
            s.view(-1, *block.bias.shape).add_(block.bias)
            p = s.softmax(-1).to(s.dtype)  # sums in fp32 inside, whatever the dtype
            p.view(-1, *block.bias.shape)[:, block.n :] = 0  # what is computed for nothing has no gradient
            o[:, block.queries] = torch.bmm(p, vs).view(len(q), -1, v.shape[2])[:, : block.n]
            weights.append(p)
        ctx.save_for_backward(q, k, v, *weights)
        ctx.scale, ctx.plan = scale, plan
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block, p in zip(ctx.plan.blocks, weights, strict=True):
            qs, ks, vs = _queries(q, block, len(k)), _keys(k, block), _keys(v, block)
            dos = _queries(do, block, len(k))
            _add(dv, block, torch.bmm(p.transpose(1, 2), dos))
            dp = torch.bmm(dos, vs.transpose(1, 2))
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            dq[:, block.queries] = torch.bmm(ds, ks).view(len(q), -1, q.shape[2])[:, : block.n]
            _add(dk, block, torch.bmm(ds.transpose(1, 2), qs))
        return dq.mul_(ctx.scale), dk.mul_(ctx.scale), dv, None, None


def _queries(x: Tensor, block: Block, n_kv: int) -> Tensor:
    """(H, T, D) -> (K, G n, D): the queries of the G heads that share a key/value head below each other."""
    return x[:, block.computed].reshape(n_kv, -1, x.shape[2])


def _keys(x: Tensor, block: Block) -> Tensor:
    """(K, T, D) -> (K, m, D), without a copy where the keys are neighbours."""
    parts = [x[:, seen] for seen in block.keys]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _add(x: Tensor, block: Block, values: Tensor) -> None:
    """Adds (K, m, D) to the keys of (K, T, D)."""
    for seen, part in zip(block.keys, values.split([s.stop - s.start for s in block.keys], 1), strict=True):
        x[:, seen] += part


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    plan, answers = _plan.get(), _decoding.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if answers is not None and attention_mask is not None:
        _check_supported(dropout, kwargs)
        answers.narrowest = min(answers.narrowest, kwargs.get("sliding_window") or answers.narrowest)
        return answers.attend(query, attention_mask, scale), None
    if plan is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    _check_supported(dropout, kwargs)
    _check_packed(plan, query, kwargs)
    query, key = query.to(value.dtype), key.to(value.dtype)
    o = _PackedAttention.apply(query[0], key[0], value[0], scale, plan)
    return o.transpose(0, 1)[None], None


def _check_supported(dropout: float, kwargs: dict[str, Any]) -> None:
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise Unsupported(name)
    if dropout:
        raise Unsupported("attention dropout")


def _check_packed(plan: Plan, query: Tensor, kwargs: dict[str, Any]) -> None:
    window = kwargs.get("sliding_window")
    if window is not None and plan.longest_path > window:
        raise Unsupported(f"a sliding window of {window} tokens")
    if len(query) != 1:
        raise Unsupported("several packed rows at once")


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **kwargs) if _plan.get() is None else None


@cache
def register() -> str:
    """Makes the attention known to transformers; returns the name to load models with."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    return NAME
