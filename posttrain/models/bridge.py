"""From the width of a student to that of its teacher: a matrix for each of its layers, learnt beside it and thrown away with
the training.

It begins as the map that fits the states best of the first rows, so that what is learnt under it begins with the student
and not with what was drawn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from posttrain.data.batch import Batch
from posttrain.functional.hidden_states import least_squares, paired
from posttrain.functional.layout import Branch, Tree
from posttrain.schema.errors import ModelError

from .policy import Policy

FIRST = 64  # rows


class Bridge(nn.Module):
    """A matrix (E, D) for each layer of the student."""

    def __init__(self, maps: Sequence[Tensor]):
        super().__init__()
        self.maps = nn.ParameterList(maps)


@torch.no_grad()
def bridge(policy: Policy, teacher: Policy, trees: Sequence[Tree]) -> Bridge | None:
    """What carries the policy's states to the teacher's; None where they are equally wide. Raises ModelError for models
    that do not show their states."""
    first = [whole for tree in trees[:FIRST] if (whole := _all_learnt(tree)) is not None]
    ours, theirs = _states(policy, first), _states(teacher, first)
    pairs = [(h, theirs[t]) for h, t in zip(ours, paired(len(ours), len(theirs)), strict=True)]
    if all(h.shape == g.shape for h, g in pairs):
        return None
    return Bridge([least_squares(h, g) for h, g in pairs])


def _states(policy: Policy, trees: Sequence[Tree]) -> list[Tensor]:
    """The states of every layer at all learnt tokens."""
    if policy.encodes:
        raise ModelError(
            "Hidden states of encoder-decoders are not compared: half of theirs are the encoder's. Leave `hidden` out."
        )
    parts = [
        policy.expects(micro.trees, deep=True).states() for micro in Batch(tuple(trees)).split(policy.micro_tokens)
    ]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def _all_learnt(tree: Tree) -> Tree | None:
    """All that a row says, also where it is no answer; None where that is a single token."""
    ids = (*tree.prompt, *tree.branches[0].tokens)
    return Tree(ids[:1], (Branch(ids[1:], (True,) * (len(ids) - 1)),)) if len(ids) > 1 else None
