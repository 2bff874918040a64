"""Policy gradients: what an answer, or each of its tokens, is better than expected, and how far one step may go.

GAE                 delta_t = r_t + g V_{t+1} - V_t,   A_t = delta_t + g l A_{t+1}         Schulman et al. 2015, 1506.02438
group               A_i = (r_i - mean of its group) / (std of its group + e)               Shao et al. 2024, 2402.03300
leave one out       A_i = r_i - mean of the others of its group                            Ahmadian et al. 2024, 2402.14740
clipped surrogate   -min(rho A, clip(rho, 1 - e, 1 + e') A),   rho = pi / pi_old           Schulman et al. 2017, 1707.06347
clipped value       1/2 max((V - R)^2, (V_old + clip(V - V_old, -e, e) - R)^2)
mean ahead          R_t = mean over t' > t of r_t'                                         Gu et al. 2023, 2306.08543
KL, by samples      k1 = x,  k3 = exp(-x) - 1 + x,  x = log pi - log ref                   Schulman 2020

Shapes: B answers, N tokens, answers behind each other and `lengths` (B,) of them long; no padding anywhere.
"""

import torch
from torch import Tensor

LONGEST_RATIO = 20.0  # of a log-ratio: e^20 is far outside every clip, and finite
TINY = 1e-8


def gae(
    rewards_N: Tensor, values_N: Tensor, after_B: Tensor, lengths_B: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(N,), (N,): advantages, and returns = advantages + values. `after` is the value behind an answer's last token: 0
    where it ended there, the critic's where it was cut off."""
    places = _places(lengths_B)
    rewards, values = _padded(rewards_N, places), _padded(values_N, places)
    width = rewards.shape[1]
    last = (lengths_B - 1).to(values.device)
    carried = values.new_zeros(len(values))
    following = after_B.to(values)
    advantages = torch.zeros_like(values)
    for t in range(width - 1, -1, -1):
        inside = last >= t
        delta = rewards[:, t] + gamma * following - values[:, t]
        carried = torch.where(inside, delta + gamma * lam * carried, carried)
        following = torch.where(inside, values[:, t], following)
        advantages[:, t] = carried
    found = advantages[places.to(values.device)]
    return found, found + values_N


def mean_ahead(rewards_N: Tensor, lengths_B: Tensor) -> Tensor:
    """(N,): the mean reward of the tokens behind each one of its answer; 0 behind the last."""
    places = _places(lengths_B)
    padded = _padded(rewards_N.double(), places)
    ahead = padded.sum(1, keepdim=True) - padded.cumsum(1)
    left = (lengths_B[:, None] - 1 - torch.arange(padded.shape[1])).clamp(min=0).to(padded)
    return torch.where(left > 0, ahead / left.clamp(min=1), 0)[places.to(padded.device)].to(rewards_N)


def whitened(x_N: Tensor) -> Tensor:
    """Mean 0 and variance 1 over all tokens of the batch; equal ones give next to nothing, and not their rounding
    errors blown up."""
    return (x_N - x_N.mean()) / (x_N.var(correction=0) + TINY).sqrt()


def group_advantages(rewards_B: Tensor, group_B: Tensor, scale: bool = True, epsilon: float = 1e-4) -> Tensor:
    """(B,): how much better an answer is than its group; `scale` divides by the group's standard deviation, that of a
    sample (n - 1). Equal rewards, and an answer that is alone, give exactly 0."""
    n, centred = _centred(rewards_B, group_B)
    if scale:
        variance = _sums(centred**2, group_B)[group_B] / (n - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + epsilon)
    return centred.to(rewards_B)


def leave_one_out(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """(B,): how much better an answer is than the mean of the others of its group; 0 for one that is alone."""
    n, centred = _centred(rewards_B, group_B)
    return (centred * n / (n - 1).clamp(min=1)).to(rewards_B)


def log_ratio(logps: Tensor, old: Tensor | float) -> Tensor:
    """log pi - log pi_old, held where its exponential is finite."""
    return (logps - old).clamp(-LONGEST_RATIO, LONGEST_RATIO)


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, below: float, above: float) -> tuple[Tensor, Tensor]:
    """The loss of each token (or answer), and 1 where the clip holds it back."""
    ratio = log_ratio.exp()
    free, held = -advantages * ratio, -advantages * ratio.clamp(1 - below, 1 + above)
    return torch.maximum(free, held), (held > free).float()


def clipped_value(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error of each value, the larger one of it and of the value held near the old one."""
    held = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (held - returns) ** 2)


def k3(logps: Tensor, reference: Tensor) -> Tensor:
    """An estimate of KL(pi || ref) at each sampled token that is never negative."""
    x = log_ratio(reference, logps)
    return x.exp() - 1 - x


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 one that knows the mean, less is worse."""
    return 1 - (returns - values).var(correction=0) / (returns.var(correction=0) + TINY)


def adapted(coefficient: float, kl: float, target: float, n: int, horizon: int) -> float:
    """A KL coefficient after `n` more answers with a mean KL of `kl` (Ziegler et al. 2019, 1909.08593, section 2.2).
    More answers than the horizon count as many as it, so that a price never becomes negative.

    >>> adapted(0.1, kl=12.0, target=6.0, n=100, horizon=1000)   # an error of 1 is held to 0.2
    0.10200000000000001
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * min(n / horizon, 1.0))


def _centred(rewards_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor]:
    """(B,), (B,): how many are in an answer's group, and what it earns above their mean; in float64, where the mean of
    equal float32 numbers is exact: rounding errors divided by a spread of nothing would be learnt from."""
    rewards = rewards_B.double()
    n = _sums(torch.ones_like(rewards), group_B)
    return n[group_B], rewards - (_sums(rewards, group_B) / n.clamp(min=1))[group_B]


def _sums(x_B: Tensor, group_B: Tensor) -> Tensor:
    return x_B.new_zeros(int(group_B.max()) + 1).index_add(0, group_B, x_B)


def _places(lengths_B: Tensor) -> Tensor:
    """(B, T) bool: where an answer has a token."""
    return torch.arange(int(lengths_B.max()))[None, :] < lengths_B[:, None].cpu()


def _padded(x_N: Tensor, places: Tensor) -> Tensor:
    padded = x_N.new_zeros(places.shape)
    padded[places.to(x_N.device)] = x_N
    return padded
