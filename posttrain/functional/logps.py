"""Token log-probabilities from hidden states, without ever holding the (tokens, vocabulary) matrix of logits whole.

    logp_n = z_n[y_n] - logsumexp(z_n),    z_n = h_n W^T + b

    d logp_n / d z_n = onehot(y_n) - softmax(z_n)

Shapes: N tokens, D width, V vocabulary. Every loss of the package takes its log-probabilities from here. The head is
applied in chunks of tokens; the exponentials of a chunk are kept for the backward pass while that fits `keep_bytes`,
and computed again where it does not.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS_ON_CPU = 1 << 22  # logits in flight: 16 MiB stay near the caches and in pages that are reused
CHUNK_ELEMENTS = 1 << 26  # elsewhere large products win
SHORTEST_CHUNK = 64  # tokens; products of fewer are slow, however large the vocabulary
KEEP_BYTES = 256 << 20


def token_logps(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    chunk: int | None = None,
    keep_bytes: int = KEEP_BYTES,
) -> Tensor:
    """log p(target) of each token, (N,), in nats, at least fp32. Differentiable in hidden states, weight and bias."""
    elements = CHUNK_ELEMENTS_ON_CPU if hidden_ND.device.type == "cpu" else CHUNK_ELEMENTS
    chunk = chunk or max(SHORTEST_CHUNK, elements // weight_VD.shape[0])
    return _TokenLogps.apply(hidden_ND, weight_VD, targets_N, bias_V, chunk, keep_bytes)


def plain_logps(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """The same from whole logits: for heads that are more than a matrix, and as the definition to test against."""
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return logits_NV.log_softmax(-1).gather(-1, targets_N[:, None])[:, 0]


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _wide(x: Tensor) -> Tensor:
    """Sums over the vocabulary need more digits than bf16 has."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, chunk: int, keep_bytes: int
    ) -> Tensor:
        dtype = _compute_dtype(hidden)
        h, w = hidden.to(dtype), weight.to(dtype)
        differentiable = any(ctx.needs_input_grad)
        keep = differentiable and len(h) * len(w) * h.element_size() <= keep_bytes
        logps, kept = [], []
        for h_part, y_part in zip(h.split(chunk), targets.split(chunk), strict=True):
            z = _logits(h_part, w, bias)
            at_target = z.gather(1, y_part[:, None])[:, 0]
            e, total, top = _exponentials(z)
            logps.append(at_target - top - total.log())
            if keep:
                kept += [e.to(dtype), total]
        if differentiable:
            ctx.save_for_backward(h, w, targets, bias, *kept)
            ctx.chunk, ctx.dtypes = chunk, (hidden.dtype, weight.dtype)
        return torch.cat(logps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        h, w, targets, bias, *kept = ctx.saved_tensors
        _, wants_weight, _, wants_bias, _, _ = ctx.needs_input_grad
        dh = torch.empty_like(h)
        dw = torch.zeros(w.shape, dtype=_wide(w[:0]).dtype, device=w.device) if wants_weight else None
        db = torch.zeros_like(bias) if wants_bias else None
        parts = zip(h.split(ctx.chunk), targets.split(ctx.chunk), grad_N.split(ctx.chunk), strict=True)
        for i, (h_part, y_part, g) in enumerate(parts):
            e, total = kept[2 * i : 2 * i + 2] if kept else _exponentials(_logits(h_part, w, bias))[:2]
            dz = (e * (-g / total).to(e.dtype)[:, None]).to(h.dtype)
            dz.scatter_add_(1, y_part[:, None], g.to(h.dtype)[:, None])
            torch.mm(dz, w, out=dh[i * ctx.chunk : i * ctx.chunk + len(g)])
            if dw is not None:
                _add_product(dw, dz, h_part)
            if db is not None:
                db += dz.sum(0).to(db.dtype)
        hidden_dtype, weight_dtype = ctx.dtypes
        return dh.to(hidden_dtype), dw.to(weight_dtype) if dw is not None else None, None, db, None, None


def _logits(h: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    z = _wide(h @ w.t())
    return z if bias is None else z + bias.to(z.dtype)


def _exponentials(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(z - top) in the place of z, its sum over the vocabulary, and top: softmax is the first over the second."""
    top = z.amax(-1)
    e = z.sub_(top[:, None]).exp_()
    return e, e.sum(-1), top


def _add_product(dw: Tensor, dz: Tensor, h: Tensor) -> None:
    """dw += dz^T h, in place where the dtypes agree and through a product in the narrow dtype where they do not."""
    if dw.dtype == dz.dtype:
        dw.addmm_(dz.t(), h)
    else:
        dw += dz.t() @ h
