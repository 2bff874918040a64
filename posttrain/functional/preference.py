"""Losses on pairs of rewards. Shapes: B pairs."""

import torch.nn.functional as F
from torch import Tensor


def bradley_terry(chosen_B: Tensor, rejected_B: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """(B,), (B,) -> (B,). How surprised the Bradley-Terry model is that `chosen` won, in nats.

    -(1 - e) log sigmoid(margin) - e log sigmoid(-margin), with e the share of labels taken to be wrong (cDPO).
    """
    margin = chosen_B - rejected_B
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
