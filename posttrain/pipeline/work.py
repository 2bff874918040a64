"""One piece of work: a step with its inputs in hand. From them comes the key that decides whether it is done again."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain.data.planting import shape_of
from posttrain.data.read import read
from posttrain.engine.environment import is_out_of_memory
from posttrain.engine.job import Job
from posttrain.engine.method import Made
from posttrain.engine.store import Store
from posttrain.schema.artifacts import Artifact, Dataset, Model, hash_of
from posttrain.schema.errors import MachineError, ModelError, Problem, UsageError
from posttrain.schema.rows import Row
from posttrain.schema.settings import input_of, keyed

from .plan import Plan
from .recipe import BASE
from .record import MADE_BY
from .step import Input, Step

Given = Model | tuple[Model, ...] | tuple[Dataset, ...]
Outside = Mapping[str, Artifact]  # by the identity of an Input
SEVERAL = "+"  # between the digests of several sources of one input


@dataclass(frozen=True)
class Work:
    """A step and what it is given, by the name of the parameter."""

    step: Step
    given: Mapping[str, Given]
    seed: int

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digests of the inputs, those of several sources joined."""
        return {name: _digest(given) for name, given in self.given.items()}

    @cached_property
    def key(self) -> str:
        stage = self.step.stage
        return hash_of([self.step.method, stage.version, keyed(stage), self.digests, self.seed])

    @property
    def blank(self) -> Artifact:
        """What the artifact will be, as far as it is known before the work."""
        stage = self.step.stage
        return stage.artifact(
            Path(),
            "",
            method=self.step.method,
            version=stage.version,
            settings=stage.model_dump(mode="json"),
            inputs=self.digests,
            seed=self.seed,
        )

    def make(self, store: Store, made_by: str, emit: Callable[..., None], stop: Callable[[], bool]) -> Artifact:
        """The artifact, made now unless another process was quicker. `made_by` becomes one of its facts."""

        def work(folder: Path, scratch: Path) -> Made:
            try:
                made = self.step.stage.run(Job(folder, scratch, self.seed, emit, stop, store.root), **self.given)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise self._too_large(error) from error
            return replace(made, facts={**made.facts, MADE_BY: made_by})

        return store.make(self.key, self.blank, work)

    def _too_large(self, error: BaseException) -> MachineError:
        said = str(error).partition("\n")[0] or "the machine gave no more"
        return MachineError(
            f"{self.step.name!r} ran out of memory ({said}). `posttrain plan` tells what a training takes; a smaller model "
            "takes less, and so do `adapter: lora` or `optimizer: adamw_8bit`."
        )


def _digest(given: Given) -> str:
    return given.digest if isinstance(given, Model) else SEVERAL.join(each.digest for each in given)


def given(step: Step, made: Mapping[str, Artifact], outside: Outside) -> dict[str, Given]:
    """The inputs of a step as artifacts. Raises KeyError where one is not made yet."""
    found: dict[str, Any] = {}
    for name, sources in step.inputs.items():
        artifacts = tuple(outside[s.identity] if s.step is None else _taken(made[s.step], s) for s in sources)
        found[name] = artifacts if isinstance(input_of(step.stage, name), tuple) else artifacts[0]
    return found


def _taken(artifact: Artifact, source: Input) -> Artifact:
    """What an earlier step made, read as the recipe says."""
    if source.rows is None or not isinstance(artifact, Dataset):
        return artifact
    return artifact.read_as(source.rows.reading())


def find_outside(plan: Plan, store: Store) -> tuple[Outside, list[Problem]]:
    """All that the recipe reads from outside, its model too; and what is not found, or is not of the shape or form that
    the stage reads."""
    problems: list[Problem] = []
    found: dict[str, Artifact] = {}
    base = [((), base_of(plan))] if plan.recipe.model else []  # that it is missing was said before
    for shapes, source in (*base, *plan.outside()):
        try:
            if source.identity not in found:
                found[source.identity] = store.dataset(source.rows) if source.rows else store.model(source.name)
            _require(found[source.identity], source, shapes)
        except UsageError as error:
            problems.append(source.node.problem(str(error)))
    return found, problems


def _require(artifact: Artifact, source: Input, shapes: tuple[type[Row], ...]) -> None:
    """Raises DataError for rows of none of the shapes, and ModelError for weights of another form than is wanted."""
    if shapes and isinstance(artifact, Dataset):
        read(artifact, shape_of(artifact, shapes), limit=1)
    if source.forms and isinstance(artifact, Model) and artifact.form not in source.forms:
        wanted = " or ".join(source.forms)
        raise ModelError(
            f"{source.name!r} holds {artifact.form} weights, and {wanted} ones are wanted. Name another model."
        )


def base_of(plan: Plan) -> Input:
    """The recipe's model."""
    return Input(plan.recipe.model, None, plan.recipe.tree.nearest("model"))


def states(plan: Plan, store: Store, outside: Outside) -> dict[str, str]:
    """`kept` or `made` for every step, and for every measurement as `chat of sft`, as far as keys are known now."""
    base = outside[base_of(plan).identity]
    made = {BASE: base}
    told: dict[str, str] = {}

    def look(name: str, step: Step, has: Mapping[str, Artifact]) -> Artifact | None:
        try:
            kept = store.find(Work(step, given(step, has, outside), plan.recipe.seed).key)
        except KeyError:  # an input is not made yet
            kept = None
        told[name] = "made" if kept is None else "kept"
        return kept

    for name in (BASE, *(step.name for step in plan.steps)):
        step = next((step for step in plan.steps if step.name == name), None)
        kept = look(name, step, made) if step else base
        if kept is not None:
            made[name] = kept
        for model, measure in plan.due(name):
            look(f"{measure.name} of {model}", of_model(measure, model), made)
    return told


def kept(plan: Plan, store: Store, outside: Outside) -> dict[str, Artifact]:
    """The base model and what the store holds of the plan's steps, by their names."""
    found = {BASE: outside[base_of(plan).identity]}
    for step in plan.steps:
        with suppress(KeyError):  # an input is not made yet
            if artifact := store.find(Work(step, given(step, found, outside), plan.recipe.seed).key):
                found[step.name] = artifact
    return found


def of_model(measure: Step, model: str) -> Step:
    """A measure of the suite as a step that is given one model."""
    return replace(measure, inputs={"model": (Input(model, model, measure.node),), **measure.inputs})
