"""Attention over packed trees, registered with transformers under the name `posttrain`.

Inside `packed_as(plan)` each segment attends to its prompt and, causally, to itself; outside it is transformers' own
scaled-dot-product attention, so one model serves training and sampling. Segments are cut into blocks of queries (the
part above the diagonal is never computed), blocks of like size are gathered and run as one batched product.

    s = scale q k^T,  p = softmax(s),  o = p v
    ds = p (do v^T - sum(do o)),  dq = scale ds k,  dk = scale ds^T q,  dv = p^T do

Shapes: T tokens, H query heads, K key/value heads, D head width, n blocks of q queries and k keys.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from posttrain.functional.layout import Segment

NAME = "posttrain"
BLOCK = 128
ROUND = 16


@dataclass(frozen=True)
class Blocks:
    """n blocks of like size. `queries` (n, q) and `keys` (n, k) are places in the packed row, filled up with place 0;
    `bias` (n, q, k) is -inf where a query must not look; `real` (n, q) marks the queries that are not filling."""

    queries: Tensor
    keys: Tensor
    bias: Tensor
    real: Tensor


@dataclass(frozen=True)
class Plan:
    """How a packed row attends; made once for a micro-batch and used by every layer."""

    blocks: tuple[Blocks, ...]
    longest_path: int


class Unsupported(Exception):
    """The model asks for something that packed attention does not compute; padded rows do."""


_plan: ContextVar[Plan | None] = ContextVar("packed attention plan", default=None)


@contextmanager
def packed_as(plan: Plan | None) -> Iterator[None]:
    """Within: attention follows `plan`; None leaves attention as it is."""
    token = _plan.set(plan)
    try:
        yield
    finally:
        _plan.reset(token)


def plan_of(segments: Sequence[Segment], device: torch.device | str = "cpu") -> Plan:
    """Cuts segments into blocks and groups blocks of like size."""
    groups: dict[tuple[int, int], list[tuple[range, range, range]]] = defaultdict(list)
    longest = 0
    for s in segments:
        prompt = range(s.prompt_start, s.prompt_end)
        longest = max(longest, len(prompt) + s.end - s.start)
        for start in range(s.start, s.end, BLOCK):
            queries = range(start, min(start + BLOCK, s.end))
            own = range(s.start, queries.stop)
            size = (_round_up(len(queries)), _round_up(len(prompt) + len(own)))
            groups[size].append((queries, prompt, own))
    return Plan(tuple(_gather(size, group, device) for size, group in sorted(groups.items())), longest)


def _round_up(n: int) -> int:
    return -(-n // ROUND) * ROUND


def _gather(size: tuple[int, int], group: list[tuple[range, range, range]], device: torch.device | str) -> Blocks:
    n, (q, k) = len(group), size
    queries, keys = torch.zeros(n, q, dtype=torch.long), torch.zeros(n, k, dtype=torch.long)
    bias, real = torch.full((n, q, k), float("-inf")), torch.zeros(n, q, dtype=torch.bool)
    for i, (asking, prompt, own) in enumerate(group):
        n_queries, n_keys = len(asking), len(prompt) + len(own)
        queries[i, :n_queries] = torch.arange(asking.start, asking.stop)
        keys[i, :n_keys] = torch.tensor([*prompt, *own])
        causal = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
        bias[i, :n_queries, :n_keys].masked_fill_(causal, 0.0)
        bias[i, n_queries:, 0] = 0.0  # a filling query looks somewhere, so that its softmax is defined
        real[i, :n_queries] = True
    return Blocks(queries.to(device), keys.to(device), bias.to(device), real.to(device))


class _PackedAttention(torch.autograd.Function):
    """q (H, T, D), k and v (K, T, D) -> o (H, T, D)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, plan: Plan) -> Tensor:
        o = torch.empty_like(q)
        weights = []
        for blocks in plan.blocks:
            qs, ks, vs = _take(q, blocks.queries, len(k)), _take(k, blocks.keys, len(k)), _take(v, blocks.keys, len(k))
            s = torch.bmm(qs, ks.transpose(1, 2)).mul_(scale)
            p = _softmax(s, blocks.bias, len(k))
            _put(o, blocks, torch.bmm(p, vs))
            weights.append(p)
        ctx.save_for_backward(q, k, v, o, *weights)
        ctx.scale, ctx.plan = scale, plan
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o, *weights = ctx.saved_tensors
        n_kv = len(k)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for blocks, p in zip(ctx.plan.blocks, weights, strict=True):
            qs, ks, vs = _take(q, blocks.queries, n_kv), _take(k, blocks.keys, n_kv), _take(v, blocks.keys, n_kv)
            dos, os = _take(do, blocks.queries, n_kv), _take(o, blocks.queries, n_kv)
            dos = dos.masked_fill_(~_as_rows(blocks.real, n_kv, len(q)), 0)
            _add(dv, blocks.keys, torch.bmm(p.transpose(1, 2), dos))
            ds = torch.bmm(dos, vs.transpose(1, 2))
            ds = ds.sub_((dos * os).sum(-1, keepdim=True)).mul_(p).mul_(ctx.scale)
            _put(dq, blocks, torch.bmm(ds, ks))
            _add(dk, blocks.keys, torch.bmm(ds.transpose(1, 2), qs))
        return dq, dk, dv, None, None


def _take(x: Tensor, places: Tensor, n_kv: int) -> Tensor:
    """(heads, T, D) at (n, m) places -> (n K, G m, D), the G query heads of a key/value head below each other."""
    n, m = places.shape
    heads, _, width = x.shape
    taken = x.index_select(1, places.flatten()).view(n_kv, heads // n_kv, n, m, width)
    return taken.permute(2, 0, 1, 3, 4).reshape(n * n_kv, -1, width)


def _put(x: Tensor, blocks: Blocks, values: Tensor) -> None:
    """Writes (n K, G q, D) back to the real queries of (H, T, D)."""
    n, q = blocks.queries.shape
    heads, _, width = x.shape
    spread = values.view(n, heads, q, width).permute(1, 0, 2, 3).reshape(heads, n * q, width)
    real = blocks.real.flatten()
    if bool(real.all()):
        x.index_copy_(1, blocks.queries.flatten(), spread)
    else:
        x.index_copy_(1, blocks.queries.flatten()[real], spread[:, real])


def _add(x: Tensor, places: Tensor, values: Tensor) -> None:
    """Adds (n K, k, D) to the keys of (K, T, D); filling keys carry zeros, as nothing looks at them."""
    n, m = places.shape
    n_kv, _, width = x.shape
    x.index_add_(1, places.flatten(), values.view(n, n_kv, m, width).permute(1, 0, 2, 3).reshape(n_kv, n * m, width))


def _as_rows(real: Tensor, n_kv: int, heads: int) -> Tensor:
    """(n, q) -> (n K, G q, 1)."""
    n, q = real.shape
    return real[:, None, None, :].expand(n, n_kv, heads // n_kv, q).reshape(n * n_kv, -1, 1)


def _softmax(s: Tensor, bias: Tensor, n_kv: int) -> Tensor:
    """Softmax over keys in fp32 (or wider), returned in the dtype of the scores."""
    n, q, k = bias.shape
    wide = s if s.dtype in (torch.float32, torch.float64) else s.float()
    wide.view(n, -1, q, k).add_(bias[:, None])
    return wide.softmax(-1).to(s.dtype)


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
    plan = _plan.get()
    if plan is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    _check_supported(plan, query, dropout, kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)
    o = _PackedAttention.apply(query[0], key[0], value[0], scale, plan)
    return o.transpose(0, 1)[None], None


def _check_supported(plan: Plan, query: Tensor, dropout: float, kwargs: dict[str, Any]) -> None:
    window = kwargs.get("sliding_window")
    if window is not None and plan.longest_path > window:
        raise Unsupported(f"a sliding window of {window} tokens")
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise Unsupported(name)
    if dropout:
        raise Unsupported("attention dropout")
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
