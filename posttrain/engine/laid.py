"""What a training begins with, before its first step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from posttrain.functional.layout import Tree
from posttrain.models.policy import Models, Policy

from .loop import Beside
from .source import Source


@dataclass
class Begun(Models):
    """The models of a training before its first step."""

    reference: Policy | None = None


@dataclass
class Laid:
    """All that a training begins with. `trees` are the rows that it learns, where there are rows, `is_often` whether it
    sees them several times, and `beside` what is learnt with every update."""

    begun: Begun
    source: Source
    n_steps: int
    facts: Mapping[str, Any]
    trees: Sequence[Tree] = ()
    is_often: bool = False
    beside: Beside | None = None

    @property
    def start(self) -> Policy | None:
        """The model as it was before."""
        return self.begun.reference

    @cached_property
    def models(self) -> Models:
        begun = self.begun
        return Models(begun.policy, begun.reference, begun.critic, begun.teacher, begun.bridge)
