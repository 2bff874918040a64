"""Divergences between two models' next tokens, exact over the whole vocabulary.

    forward   KL(p || q) = sum_v p_v (log p_v - log q_v)      d / d z_v = q_v - p_v
    reverse   KL(q || p) = sum_v q_v (log q_v - log p_v)      d / d z_v = q_v (log q_v - log p_v - KL)

q = softmax(z) is the policy, which learns, and p the reference, which does not. z = h W^T + b. Forward keeps all that
the reference would say likely; reverse lets the policy drop some of it. Shapes: N tokens, D width, V vocabulary.

Others measure either model from a mixture m of both, which nothing that one of them expects is far from:

    D = a KL(p || m) + b KL(q || m),     m = c p + (1 - c) q

    jensen_shannon(c)   a = c, b = 1 - c             (Agarwal et al. 2023, arXiv 2306.13649, its beta is c)
    skew_forward(s)     a = 1, b = 0, c = s          KL(p || s p + (1 - s) q)    (Ko et al. 2024, arXiv 2402.03898)
    skew_reverse(s)     a = 0, b = 1, c = 1 - s      KL(q || (1 - s) p + s q)    (the same)

As d m_v / d q_v = 1 - c, up to a constant that softmax takes no notice of,

    g_v = d D / d q_v = b log(q_v / m_v) - (1 - c) (a p_v + b q_v) / m_v,      d D / d z_v = q_v (g_v - sum_u q_u g_u)

p / m is at most 1 / c, and q / m at most 1 / (1 - c), so D is at most -a log c - b log(1 - c); a KL divergence, and the
slope p / q of the forward one, have no bound. For small c the Jensen-Shannon divergence is c times the forward one, near
1 it is 1 - c times the reverse one.

Of a reference that was asked before, and of which only the likeliest tokens were kept, there is the forward divergence
(`top_k`).

The (N, V) matrices never exist whole: tokens go through both heads in chunks, and the derivative by the logits, which
the forward pass knows already, is kept while it fits `keep_bytes` and computed again where it does not.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .logps import CHUNK_ELEMENTS, CHUNK_ELEMENTS_ON_CPU, KEEP_BYTES, SHORTEST_CHUNK
from .top_k import TopK, forward_from, forward_with_derivative

Direction = Literal["forward", "reverse"]


class Mixture(NamedTuple):
    """`of_reference` KL(p || m) + `of_policy` KL(q || m), with m = `share` p + (1 - `share`) q, the share between 0 and 1."""

    of_reference: float
    of_policy: float
    share: float


Kind = Direction | Mixture


def jensen_shannon(beta: float) -> Mixture:
    """The generalised Jensen-Shannon divergence, 0 < beta < 1; symmetric at a half."""
    return Mixture(beta, 1 - beta, beta)


def skew_forward(skew: float) -> Mixture:
    """KL from the reference to a policy that is mixed with `skew` of the reference."""
    return Mixture(1.0, 0.0, skew)


def skew_reverse(skew: float) -> Mixture:
    """KL from the policy to a reference that is mixed with `skew` of the policy."""
    return Mixture(0.0, 1.0, 1 - skew)


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

    def to(self, dtype: torch.dtype) -> "Head":
        """The same with products in another precision."""
        return Head(self.hidden.to(dtype), self.weight.to(dtype), self.bias)


def token_divergence(
    policy: Head,
    reference: Head | TopK,
    kind: Kind = "forward",
    *,
    chunk: int | None = None,
    keep_bytes: int = KEEP_BYTES,
) -> Tensor:
    """The divergence at each token, (N,), in nats, at least fp32. Differentiable in the policy's states, weight and bias."""
    elements = CHUNK_ELEMENTS_ON_CPU if policy.hidden.device.type == "cpu" else CHUNK_ELEMENTS
    chunk = chunk or max(SHORTEST_CHUNK, elements // policy.weight.shape[0])
    return _Divergence.apply(*policy, *reference, type(reference), kind, chunk, keep_bytes)


def plain_divergence(logits_NV: Tensor, reference_NV: Tensor | TopK, kind: Kind = "forward") -> Tensor:
    """The same from whole logits: for heads that are more than a matrix, and as the definition to test against."""
    wide = torch.float64 if logits_NV.dtype == torch.float64 else torch.float32
    log_q = logits_NV.to(wide).log_softmax(-1)
    if isinstance(reference_NV, TopK):
        return forward_from(log_q, reference_NV)
    log_p = reference_NV.to(wide).log_softmax(-1)
    if isinstance(kind, Mixture):
        log_m = _log_mixture(log_q, log_p, kind.share)
        return kind.of_reference * _kl(log_p, log_m) + kind.of_policy * _kl(log_q, log_m)
    return _kl(log_p, log_q) if kind == "forward" else _kl(log_q, log_p)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _log_mixture(log_q: Tensor, log_p: Tensor, share: float) -> Tensor:
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        first: Tensor,
        second: Tensor,
        third: Tensor | None,
        of_reference: type[Any],
        kind: Kind,
        chunk: int,
        keep_bytes: int,
    ) -> Tensor:
        narrow = torch.is_autocast_enabled(hidden.device.type)
        dtype = torch.get_autocast_dtype(hidden.device.type) if narrow else hidden.dtype
        policy, reference = Head(hidden, weight, bias).to(dtype), of_reference(first, second, third).to(dtype)
        differentiable = any(ctx.needs_input_grad)
        keep = differentiable and len(hidden) * len(weight) * policy.hidden.element_size() <= keep_bytes
        found, kept = [], []
        for start in range(0, len(hidden), chunk):
            of = slice(start, start + chunk)
            apart, dz = _with_derivative(policy.part(of), reference.part(of), kind)
            found.append(apart)
            if keep:
                kept.append(dz.to(dtype))
        if differentiable:
            ctx.save_for_backward(*policy, *reference, *kept)
            ctx.chunk, ctx.kind, ctx.dtypes = chunk, kind, (hidden.dtype, weight.dtype)
            ctx.of_reference = of_reference
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        policy, kept = Head(*ctx.saved_tensors[:3]), ctx.saved_tensors[6:]
        reference = ctx.of_reference(*ctx.saved_tensors[3:6])
        h, w, bias = policy
        _, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        dh = torch.empty_like(h)
        dw = torch.zeros(w.shape, dtype=grad_N.dtype, device=w.device) if wants_weight else None
        db = torch.zeros(bias.shape, dtype=grad_N.dtype, device=w.device) if wants_bias and bias is not None else None
        for i, start in enumerate(range(0, len(h), ctx.chunk)):
            of = slice(start, start + ctx.chunk)
            by_z = kept[i] if kept else _with_derivative(policy.part(of), reference.part(of), ctx.kind)[1]
            dz = (by_z * grad_N[of, None]).to(h.dtype)
            dh[of] = dz @ w
            if dw is not None:
                dw += dz.t() @ h[of]
            if db is not None:
                db += dz.sum(0, dtype=db.dtype)
        by_hidden, by_weight = dh.to(ctx.dtypes[0]), dw.to(ctx.dtypes[1]) if dw is not None else None
        by_bias = db.to(bias.dtype) if db is not None and bias is not None else None
        return by_hidden, by_weight, by_bias, *[None] * 7


def _with_derivative(z: Tensor, z_p: Tensor | TopK, kind: Kind) -> tuple[Tensor, Tensor]:
    """(n,) and (n, V): the divergence, and its derivative by the policy's logits z."""
    log_q = z.log_softmax(-1)
    if isinstance(z_p, TopK):
        return forward_with_derivative(log_q, z_p)
    log_p = z_p.log_softmax(-1)
    if isinstance(kind, Mixture):
        return _from_mixture(log_q, log_p, *kind)
    if kind == "forward":
        p = log_p.exp()
        return (p * (log_p - log_q)).sum(-1), log_q.exp_() - p
    q, log_ratio = log_q.exp(), log_q - log_p
    kl = (q * log_ratio).sum(-1)
    return kl, q * (log_ratio - kl[:, None])


def _from_mixture(log_q: Tensor, log_p: Tensor, a: float, b: float, c: float) -> tuple[Tensor, Tensor]:
    """The same for a KL(p || m) + b KL(q || m)."""
    log_m, p, q = _log_mixture(log_q, log_p, c), log_p.exp(), log_q.exp()
    weighed = a * p + b * q
    apart = (a * p * log_p + b * q * log_q - weighed * log_m).sum(-1)
    qg = b * q * (log_q - log_m) - (1 - c) * (log_q - log_m).exp_() * weighed
    return apart, qg - q * qg.sum(-1, keepdim=True)
