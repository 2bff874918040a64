"""Kullback-Leibler divergence between two models' next tokens, exact over the whole vocabulary.

    forward   KL(p || q) = sum_v p_v (log p_v - log q_v)      d / d z_v = q_v - p_v
    reverse   KL(q || p) = sum_v q_v (log q_v - log p_v)      d / d z_v = q_v (log q_v - log p_v - KL)

q = softmax(z) is the policy, which learns, and p the reference, which does not. z = h W^T + b. Forward keeps all that
the reference would say likely; reverse lets the policy drop some of it. Shapes: N tokens, D width, V vocabulary.

The (N, V) matrices never exist whole: tokens go through both heads in chunks, and the derivative by the logits, which
the forward pass knows already, is kept while it fits `keep_bytes` and computed again where it does not.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .logps import CHUNK_ELEMENTS, CHUNK_ELEMENTS_ON_CPU, KEEP_BYTES, SHORTEST_CHUNK

Direction = Literal["forward", "reverse"]


class Head(NamedTuple):
    """Hidden states and what makes logits of them: (N, D), (V, D) and, where there is one, (V,)."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def part(self, of: slice) -> Tensor:
        """Logits of some tokens, at least fp32."""
        z = self.hidden[of] @ self.weight.t()
        z = z if z.dtype in (torch.float32, torch.float64) else z.float()
        return z if self.bias is None else z + self.bias.to(z.dtype)


def token_divergence(
    policy: Head,
    reference: Head,
    direction: Direction = "forward",
    *,
    chunk: int | None = None,
    keep_bytes: int = KEEP_BYTES,
) -> Tensor:
    """KL of each token, (N,), in nats, at least fp32. Differentiable in the policy's states, weight and bias."""
    elements = CHUNK_ELEMENTS_ON_CPU if policy.hidden.device.type == "cpu" else CHUNK_ELEMENTS
    chunk = chunk or max(SHORTEST_CHUNK, elements // policy.weight.shape[0])
    return _Divergence.apply(*policy, *reference, direction, chunk, keep_bytes)


def plain_divergence(logits_NV: Tensor, reference_NV: Tensor, direction: Direction = "forward") -> Tensor:
    """The same from whole logits: for heads that are more than a matrix, and as the definition to test against."""
    wide = torch.float64 if logits_NV.dtype == torch.float64 else torch.float32
    log_q, log_p = logits_NV.to(wide).log_softmax(-1), reference_NV.to(wide).log_softmax(-1)
    over, log_ratio = (log_p, log_p - log_q) if direction == "forward" else (log_q, log_q - log_p)
    return (over.exp() * log_ratio).sum(-1)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        hidden_p: Tensor,
        weight_p: Tensor,
        bias_p: Tensor | None,
        direction: Direction,
        chunk: int,
        keep_bytes: int,
    ) -> Tensor:
        narrow = torch.is_autocast_enabled(hidden.device.type)
        dtype = torch.get_autocast_dtype(hidden.device.type) if narrow else hidden.dtype
        policy = Head(hidden.to(dtype), weight.to(dtype), bias)
        reference = Head(hidden_p.to(dtype), weight_p.to(dtype), bias_p)
        differentiable = any(ctx.needs_input_grad)
        keep = differentiable and len(hidden) * len(weight) * policy.hidden.element_size() <= keep_bytes
        found, kept = [], []
        for start in range(0, len(hidden), chunk):
            of = slice(start, start + chunk)
            kl, dz = _with_derivative(policy.part(of), reference.part(of), direction)
            found.append(kl)
            if keep:
                kept.append(dz.to(dtype))
        if differentiable:
            ctx.save_for_backward(*policy, *reference, *kept)
            ctx.chunk, ctx.direction, ctx.dtypes = chunk, direction, (hidden.dtype, weight.dtype)
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        policy, reference, kept = Head(*ctx.saved_tensors[:3]), Head(*ctx.saved_tensors[3:6]), ctx.saved_tensors[6:]
        h, w, bias = policy
        _, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        dh = torch.empty_like(h)
        dw = torch.zeros(w.shape, dtype=grad_N.dtype, device=w.device) if wants_weight else None
        db = torch.zeros(bias.shape, dtype=grad_N.dtype, device=w.device) if wants_bias and bias is not None else None
        for i, start in enumerate(range(0, len(h), ctx.chunk)):
            of = slice(start, start + ctx.chunk)
            by_z = kept[i] if kept else _with_derivative(policy.part(of), reference.part(of), ctx.direction)[1]
            dz = (by_z * grad_N[of, None]).to(h.dtype)
            dh[of] = dz @ w
            if dw is not None:
                dw += dz.t() @ h[of]
            if db is not None:
                db += dz.sum(0, dtype=db.dtype)
        by_hidden, by_weight = dh.to(ctx.dtypes[0]), dw.to(ctx.dtypes[1]) if dw is not None else None
        by_bias = db.to(bias.dtype) if db is not None and bias is not None else None
        return by_hidden, by_weight, by_bias, *[None] * 6


def _with_derivative(z: Tensor, z_p: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """(n,) and (n, V): the divergence, and its derivative by the policy's logits z."""
    log_q, log_p = z.log_softmax(-1), z_p.log_softmax(-1)
    if direction == "forward":
        p = log_p.exp()
        return (p * (log_p - log_q)).sum(-1), log_q.exp_() - p
    q, log_ratio = log_q.exp(), log_q - log_p
    kl = (q * log_ratio).sum(-1)
    return kl, q * (log_ratio - kl[:, None])
