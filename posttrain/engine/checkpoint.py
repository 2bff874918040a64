"""Checkpoints: all that a killed run needs to go on to the same bytes. One file, replaced in one step.

Batches depend on the step alone and sampling has its own generators, so weights, optimizer and step are all there is.
"""

import os
from pathlib import Path

import torch

from posttrain.models.policy import Policy

NAME = "checkpoint.pt"


def save_checkpoint(
    scratch: Path, policy: Policy, optimizer: torch.optim.Optimizer, step: int, sums: dict[str, float]
) -> None:
    """Writes beside the old one, then takes its place. `sums` are the metrics of the last step."""
    state = {"step": step, "sums": sums, "weights": _trained(policy), "optimizer": optimizer.state_dict()}
    fresh = scratch / f"{NAME}.new"
    with fresh.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(scratch / NAME)


def load_checkpoint(scratch: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, float]]:
    """The step to go on with and the metrics of the one before; step 0 when there is no checkpoint."""
    path = scratch / NAME
    if not path.exists():
        return 0, {}
    state = torch.load(path, map_location=policy.device, weights_only=True)
    trained = _trained(policy)
    with torch.no_grad():
        for name, value in state["weights"].items():
            trained[name].copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["sums"]


def _trained(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.data for name, p in policy.model.named_parameters() if p.requires_grad}
