"""What a method is: a frozen set of options that can run. Four kinds, told apart by what they return.

objective   trains weights    gives a loss; `engine.train.training` makes it a stage run by the one loop
transform   Model -> Model    `run` writes a model folder
generator   Model -> Dataset  `run` writes `rows.jsonl`
measure     Model -> Findings `measure` returns them
"""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from posttrain.schema.artifacts import Artifact, Dataset, Evidence, Model
from posttrain.schema.errors import UsageError
from posttrain.schema.find import class_of
from posttrain.schema.findings import Findings
from posttrain.schema.rows import Row
from posttrain.schema.settings import Settings

from .files import write_rows

if TYPE_CHECKING:
    from torch import Tensor

    from posttrain.data.batch import Batch, Counts
    from posttrain.functional.layout import Tree
    from posttrain.models.policy import Models

    from .job import Job

WEIGHTS = frozenset({"dense", "adapter"})  # can be trained
ANSWERING = WEIGHTS | {"compressed-tensors", "gptq", "modelopt", "gguf"}  # can be asked
EITHER = " or "
"""Between the forms of a model that may turn out as one or the other."""


@dataclass(frozen=True)
class Made:
    """What a stage says of the artifact it wrote; `facts` are measured properties such as the trainable share."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    form: str = "dense"
    base: str | None = None

    def fill(self, blank: Artifact) -> Artifact:
        """`blank` with what is known now that the work is done."""
        if isinstance(blank, Model):
            return replace(blank, facts=self.facts, form=self.form, base=self.base)
        return replace(blank, facts=self.facts)


class Stage(Settings):
    """A method that can run. `accepts` are the forms of model it takes and `reads` the shape of its rows; a higher `version` means that the same
    options make something else than before, so that nothing made by the older code is kept."""

    version: ClassVar[int] = 1
    kind: ClassVar[str]
    accepts: ClassVar[frozenset[str]] = WEIGHTS
    artifact: ClassVar[type[Artifact]]
    reads: ClassVar[type[Row] | None] = None

    def accepted(self) -> frozenset[str]:
        """The forms of model that it takes with these settings: all that it accepts, unless some have nothing to do."""
        return self.accepts

    def makes_form(self, form: str) -> str:
        """The form of the model that comes out when one of `form` goes in; `a or b` where only the work will tell which."""
        return form

    def takes(self, form: str) -> bool:
        """Whether it accepts models of a form; where only the work will tell which of several it is, of each of them."""
        return self.accepted().issuperset(form.split(EITHER))

    def shapes(self) -> tuple[type[Row], ...]:
        """The shapes that its rows may have with these settings, the one that is tried first first; none where it does
        not say."""
        return () if self.reads is None else (self.reads,)

    @abstractmethod
    def run(self, job: "Job", **inputs: Any) -> Made:
        """Writes the artifact into `job.folder`. `inputs` are `model: Model` and, by the name of their setting,
        tuples of Dataset, a Model or a tuple of them."""


class Transform(Stage):
    """A method that rewrites a model."""

    kind: ClassVar[str] = "transform"
    artifact: ClassVar[type[Artifact]] = Model


class Generator(Stage):
    """A method that makes rows with a model."""

    kind: ClassVar[str] = "generator"
    accepts: ClassVar[frozenset[str]] = ANSWERING
    artifact: ClassVar[type[Artifact]] = Dataset


class Measure(Stage):
    """A method that judges a model. One that is `blind` to whether a model still answers as before should not be all that a
    smaller model is held to."""

    kind: ClassVar[str] = "measure"
    accepts: ClassVar[frozenset[str]] = ANSWERING
    artifact: ClassVar[type[Artifact]] = Evidence
    blind: ClassVar[bool] = False

    @abstractmethod
    def measure(self, job: "Job", model: Model, **data: tuple[Dataset, ...]) -> Findings:
        """What is found on `model`."""

    def run(self, job: "Job", **inputs: Any) -> Made:
        found = self.measure(job, **inputs)
        write_rows(job.folder / "samples.jsonl", map(asdict, found.samples))
        (job.folder / "findings.json").write_text(
            json.dumps(found.as_dict(), indent=1, ensure_ascii=False), encoding="utf-8"
        )
        return Made()


class Loss(Protocol):
    """What the loop asks of an objective."""

    def prepare(self, batch: "Batch", models: "Models") -> "Batch":
        """Without gradient, on the whole batch."""

    def loss(self, models: "Models", micro: "Batch", total: "Counts") -> "tuple[Tensor, dict[str, Tensor]]":
        """With gradient, a micro-batch's share."""


class Objective(Settings):
    """A loss. `reads` is the shape of row it trains on, `needs` the models it wants beside the policy; `scores` says
    that what it trains gives answers a number and writes none, `strays` that it asks the reference about answers of no
    row, and `online` that it learns from answers that the policy itself gives to its rows, which are prompts."""

    version: ClassVar[int] = 1
    reads: ClassVar[type[Row]]
    needs: ClassVar[frozenset[str]] = frozenset()
    scores: ClassVar[bool] = False
    strays: ClassVar[bool] = False
    online: ClassVar[bool] = False
    recommended: ClassVar[Mapping[str, Any]] = {}

    def prepare(self, batch: "Batch", models: "Models") -> "Batch":
        """Without gradient, on the whole batch: whatever must be known before it is cut up."""
        return batch

    def needed(self) -> frozenset[str]:
        """The models that it wants with these settings: all of `needs`, unless one has nothing to do."""
        return self.needs

    @abstractmethod
    def loss(self, models: "Models", micro: "Batch", total: "Counts") -> "tuple[Tensor, dict[str, Tensor]]":
        """With gradient, on one micro-batch: its share of the loss and of every metric, divided by the counts of the
        whole batch, so that shares sum and a cut never changes a gradient."""

    def learnt(self, models: "Models", trees: "Sequence[Tree]") -> Mapping[str, Any]:
        """What the artifact records beside the last metrics, once `trees` were learnt."""
        return {}


def stage_class(name: str) -> type[Stage]:
    """The stage that a method's name stands for. Raises UsageError for an unknown name."""
    found = class_of(name)
    if issubclass(found, Stage):
        return found
    if issubclass(found, Objective):
        from .train import training

        return training(found)
    raise UsageError(f"{name!r} is neither a Stage nor an Objective. Subclass one of them (posttrain.engine.method).")
