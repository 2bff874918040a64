"""One step of a plan: a stage or measure, and what it reads."""

from collections.abc import Mapping
from dataclasses import dataclass

from posttrain.engine.method import Stage
from posttrain.schema.settings import Rows

from .recipe import Gate, Round
from .tree import Node


@dataclass(frozen=True)
class Input:
    """One thing that a step reads: what the earlier step `step` made, or something from outside the recipe.
    `rows` is None for a model, whose weights must be of one of the `forms` where some are said."""

    name: str
    step: str | None
    node: Node
    rows: Rows | None = None
    forms: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """The same for two Inputs that read the same thing."""
        return f"model {self.name}" if self.rows is None else f"rows {self.rows.model_dump_json()}"


@dataclass(frozen=True)
class Step:
    """One stage or measure, wired. `inputs` holds one Input for a model, and all for several models or a dataset. `form` is that
    of the model it makes; `within` the round it is in, where that may be the last."""

    name: str
    method: str
    stage: Stage
    inputs: Mapping[str, tuple[Input, ...]]
    node: Node
    form: str | None = None
    gates: tuple[Gate, ...] = ()
    within: Round | None = None

    @property
    def source(self) -> str:
        """The model that a stage begins with."""
        return self.inputs["model"][0].name

    @property
    def makes_model(self) -> bool:
        return self.stage.kind in ("objective", "transform")

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The steps whose artifacts it reads."""
        return tuple(dict.fromkeys(source.step for wire in self.inputs.values() for source in wire if source.step))
