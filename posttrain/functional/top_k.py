"""What a model expects, by its k likeliest tokens and what is left for all others, and the forward divergence from that.

    D = sum_{v in K} p_v (log p_v - log q_v)  +  p_R (log p_R - log q_R),     p_R = 1 - sum_K p,  q_R = 1 - sum_K q

    d D / d z_v = q_v - p_v  where v is in K,     q_v - p_R q_v / q_R  elsewhere

K are the k likeliest tokens of the reference p, R all others as one bucket; q = softmax(z) is the policy, which learns. D
is the divergence of the two once nobody tells the tokens of R apart: at most KL(p || q), and all of it where K is the
whole vocabulary. Within R the policy keeps the proportions that it has. To leave R out and let p sum to 1 over K would be
another loss, smallest where the policy gives R nothing: it teaches to be surer than the reference is.

Shapes: N tokens, V vocabulary.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class TopK(NamedTuple):
    """The likeliest tokens (N, k), their log-probabilities (N, k), and the log of what all others have together, (N,),
    which is -inf where there are no others. In nats; probabilities and rest sum to 1."""

    ids: Tensor
    logps: Tensor
    rest: Tensor

    def part(self, of: slice) -> "TopK":
        """Some of the tokens."""
        return TopK(self.ids[of], self.logps[of], self.rest[of])

    def to(self, dtype: torch.dtype) -> "TopK":
        """Itself: what was summed over a vocabulary is as wide as it is."""
        return self


def top_k(logits_NV: Tensor, k: int) -> TopK:
    """The `k` likeliest tokens by whole logits; all where there are fewer."""
    log_p = logits_NV.log_softmax(-1)
    logps, ids = log_p.topk(min(k, log_p.shape[-1]), -1)
    return TopK(ids, logps, _others(log_p, ids))


def exact(found: TopK) -> TopK:
    """The same, summing to 1, of numbers that were rounded."""
    total = torch.cat([found.logps, found.rest[:, None]], -1).logsumexp(-1)
    return TopK(found.ids, found.logps - total[:, None], found.rest - total)


def forward_from(log_q_NV: Tensor, reference: TopK) -> Tensor:
    """(N,): the divergence of a policy's log-probabilities, differentiable as it stands."""
    at, others = log_q_NV.gather(-1, reference.ids), _others(log_q_NV, reference.ids)
    there = reference.rest > -math.inf
    rest = torch.where(there, reference.rest - others.where(there, 0.0), 0.0)
    return (reference.logps.exp() * (reference.logps - at)).sum(-1) + reference.rest.exp() * rest


def forward_with_derivative(log_q_nV: Tensor, reference: TopK) -> tuple[Tensor, Tensor]:
    """(n,) and (n, V): the divergence, and its derivative by the policy's logits."""
    ids, logps, rest = reference
    others, q = _others(log_q_nV, ids), log_q_nV.exp()
    lifted = torch.where(rest > -math.inf, rest - others, -math.inf)
    expected = (log_q_nV + lifted[:, None]).exp().scatter(-1, ids, logps.exp())
    return forward_from(log_q_nV, reference), q - expected


def _others(log_p: Tensor, ids: Tensor) -> Tensor:
    """The log of what all tokens but `ids` have together: a sum of what is there, as 1 less a sum would lose its digits."""
    return log_p.scatter(-1, ids, -math.inf).logsumexp(-1)
