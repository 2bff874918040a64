"""Losses on answers that are preferred to others, or good by themselves. Shapes: B pairs, or B answers.

What they compare are numbers of answers: rewards, or log-probabilities in nats. All are per pair or per answer, at
least fp32, and finite for every finite input.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SUREST = torch.finfo(torch.float32).eps
"""The least distance from certainty, in nats, that odds are taken of: what fp32 can tell from none."""


def bradley_terry(chosen_B: Tensor, rejected_B: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """(B,), (B,) -> (B,). How surprised the Bradley-Terry model is that `chosen` won, in nats.

    -(1 - e) log sigmoid(margin) - e log sigmoid(-margin), with e the share of labels taken to be wrong (cDPO).
    """
    margin = chosen_B - rejected_B
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def robust(chosen_B: Tensor, rejected_B: Tensor, noise: float) -> Tensor:
    """(B,), (B,) -> (B,). Bradley-Terry's loss as it would be without the share e of flipped labels, in expectation.

    ((1 - e) l(margin) - e l(-margin)) / (1 - 2 e), l = -log sigmoid; it has no lower bound. `noise` is below 1/2.
    """
    won, lost = bradley_terry(chosen_B, rejected_B), bradley_terry(rejected_B, chosen_B)
    return ((1 - noise) * won - noise * lost) / (1 - 2 * noise)


def hinge(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """(B,), (B,) -> (B,). What the margin lacks of 1; nothing where it is larger."""
    return F.relu(1 - (chosen_B - rejected_B))


def expected(probability_B: Tensor, loss_B: Tensor, turned_B: Tensor) -> Tensor:
    """(B,), (B,), (B,) -> (B,). The loss of pairs of which `chosen` is the better answer with a probability p:
    p loss + (1 - p) turned, with `turned` the loss of the same pairs the other way round."""
    return probability_B * loss_B + (1 - probability_B) * turned_B


def identity_preference(chosen_B: Tensor, rejected_B: Tensor, beta: float) -> Tensor:
    """(B,), (B,) -> (B,). Squared distance of the margin from 1 / (2 beta): no pair is worth more than that (IPO)."""
    return (chosen_B - rejected_B - 1 / (2 * beta)) ** 2


def prospect(surplus_B: Tensor, good_B: Tensor) -> Tensor:
    """(B,), (B,) of bools -> (B,). 1 - sigmoid(s) of good answers and 1 - sigmoid(-s) of others, s the reward beyond the
    point of reference: what one more unit is worth fades on both sides (KTO)."""
    return torch.sigmoid(torch.where(good_B, -surplus_B, surplus_B))


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) of negative numbers, by whichever form keeps the digits (Mächler 2012)."""
    near = x > -math.log(2)
    far = torch.where(near, -math.log(2), x)  # a form must not see numbers whose gradient it has none for
    return torch.where(near, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(far)))


def log_odds(logp_B: Tensor) -> Tensor:
    """log p - log(1 - p) of log-probabilities, at least fp32. A certain answer counts as SUREST nats away from it."""
    logp = (logp_B if logp_B.dtype == torch.float64 else logp_B.float()).clamp(max=-SUREST)
    return logp - log1mexp(logp)


def pair_metrics(margin_B: Tensor, rows: int, **levels_2B: Tensor) -> dict[str, Tensor]:
    """A micro-batch's shares of what the log of a training on pairs shows, over the `rows` of the whole batch: `accuracy`,
    the mean `margin` and, of every level given by its name, the means `chosen_NAME` and `rejected_NAME`.

    The margin alone hides a level that falls on both sides.
    """
    metrics = {"accuracy": (margin_B > 0).sum() / rows, "margin": margin_B.sum() / rows}
    for name, level_2B in levels_2B.items():
        chosen, rejected = level_2B.detach().chunk(2)
        metrics |= {f"chosen_{name}": chosen.sum() / rows, f"rejected_{name}": rejected.sum() / rows}
    return metrics
