"""Checkpoints: all that a killed run needs to go on to the same bytes. One file, replaced in one step.

Batches depend on the step alone and sampling has its own generators, so weights, optimizer, step and what is watched are all there is.
"""

import os
import zipfile
from pathlib import Path

import torch

from posttrain.models.policy import Policy
from posttrain.schema.errors import Damaged

from .watch import Watch

NAME = "checkpoint.pt"


def save_checkpoint(
    scratch: Path, policy: Policy, optimizer: torch.optim.Optimizer, watch: Watch, step: int, sums: dict[str, float]
) -> None:
    """Writes beside the old one, then takes its place. `sums` are the metrics of the last step."""
    state = {
        "step": step,
        "sums": sums,
        "weights": _trained(policy),
        "optimizer": optimizer.state_dict(),
        "watch": watch.state_dict(),
    }
    fresh = scratch / f"{NAME}.new"
    with fresh.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(scratch / NAME)


def load_checkpoint(
    scratch: Path, policy: Policy, optimizer: torch.optim.Optimizer, watch: Watch
) -> tuple[int, dict[str, float]]:
    """The step to go on with and the metrics of the one before; step 0 when there is no checkpoint. Raises Damaged,
    and changes nothing, when the file is no longer what was written."""
    path = scratch / NAME
    if not path.exists():
        return 0, {}
    if not _is_whole(path):
        raise Damaged(f"The checkpoint {path} is damaged: training begins again with its first step.")
    state = torch.load(path, map_location="cpu", weights_only=True)  # an accelerator has no room for it twice
    trained = _trained(policy)
    with torch.no_grad():
        for name, value in state["weights"].items():
            trained[name].copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    watch.load_state_dict(state["watch"])
    return state["step"], state["sums"]


def _is_whole(path: Path) -> bool:
    """Whether every part has the checksum that it was written with: torch writes them and does not look at them."""
    try:
        with zipfile.ZipFile(path) as parts:
            return parts.testzip() is None
    except Exception:  # which one depends on the place of the damage
        return False


def _trained(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.data for name, p in policy.model.named_parameters() if p.requires_grad}
