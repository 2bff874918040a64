"""What Python calls beside `run`: train one stage, measure one model, compare two. Each is a small recipe, so that
what is made is stored, keyed and reported like everything else.

    tuned = pt.train("lab", pt.SFT(), data="lab:chat/train", learning_rate=6e-4)
    pt.measure(tuned, [pt.Benchmark(data="lab:chat/test"), "size"])
    print(pt.compare(base, tuned).changes)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.schema.artifacts import Artifact, Dataset, Model
from posttrain.schema.errors import UsageError
from posttrain.schema.find import methods
from posttrain.schema.findings import Findings
from posttrain.schema.record import ModelRecord
from posttrain.schema.settings import Settings

from .events import Told
from .folder import PLAN
from .overrides import short
from .recipe import BASE
from .record import read_run
from .run import RUNS, run

if TYPE_CHECKING:
    from posttrain.report.compare import Comparison

Method = str | Settings | type[Settings] | Mapping[str, Any]


def train(
    model: str | Path | Model,
    method: Method,
    data: Any = None,
    *,
    measure: Sequence[Method] = (),
    seed: int = 0,
    out: Path | str = RUNS,
    on_event: Told | None = None,
    **options: Any,
) -> Model:
    """The model that a stage makes of another: `method` with its settings, and `options` such as `learning_rate`.

    Kept when it was made before. Raises RecipeError for a wrong option.
    """
    given = {**({} if data is None else {"data": data}), **options}
    (name, settings), *_ = entry(method, given).items()
    made = short(name)
    recipe = {**_recipe(made, model, measure, seed), "stages": [{name: settings}]}
    return run(recipe, out=out, on_event=on_event).models[made]


def measure(
    model: str | Path | Model,
    suite: Sequence[Method],
    *,
    seed: int = 0,
    out: Path | str = RUNS,
    on_event: Told | None = None,
) -> Mapping[str, Findings]:
    """What each measure of a suite finds on one model, by the measure's name."""
    recipe = _recipe("measure", model, suite, seed)
    return run(recipe, out=out, on_event=on_event).record.model(BASE).findings


def compare(before: Model | ModelRecord, after: Model | ModelRecord, *, out: Path | str = RUNS) -> "Comparison":
    """Two models by everything that both were measured with, in the runs under `out`."""
    from posttrain.report.compare import compare as compared

    return compared(measured(before, Path(out)), measured(after, Path(out)))


def measured(model: Model | ModelRecord, out: Path) -> ModelRecord:
    """A model with all findings that the runs under `out` have of it. Raises UsageError when there are none."""
    if isinstance(model, ModelRecord):
        return model
    records = [read_run(plan.parent) for plan in sorted(out.glob(f"*/{PLAN}"), key=lambda p: p.stat().st_mtime_ns)]
    found = [each for record in records for each in record.models if each.digest == model.digest]
    if not any(each.findings for each in found):
        raise UsageError(
            f"The model {model.digest} was never measured in {out}. Call `pt.measure(model, [...])` first."
        )
    return replace(found[-1], findings={name: value for each in found for name, value in each.findings.items()})


def entry(method: Method, options: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """An entry of a recipe, `{method: options}`, for a method by name, as a class, or as its settings."""
    if isinstance(method, Mapping):
        ((name, given),) = method.items()
    elif isinstance(method, str):
        name, given = method, {}
    else:
        of = method if isinstance(method, type) else type(method)
        name, given = (
            name_of(of),
            {} if isinstance(method, type) else method.model_dump(mode="json", exclude_unset=True),
        )
    return {name: {option: plain(value) for option, value in {**(given or {}), **(options or {})}.items()}}


def name_of(method: type[Settings]) -> str:
    """The name that a recipe knows a class by."""
    own = next((entry.name for entry in methods().values() if entry.module == method.__module__), None)
    return own or f"{method.__module__}:{method.__qualname__}"


def plain(value: Any) -> Any:
    """A value as a recipe would hold it: artifacts and paths become their places."""
    if isinstance(value, Dataset) and (said := value.reading()):
        part = said.pop("part", "")
        return {"path": f"{value.path}#{part}" if part else str(value.path), **said}
    if isinstance(value, Artifact):
        return str(value.path)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Settings):
        return value.model_dump(mode="json", exclude_unset=True)
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def _recipe(name: str, model: str | Path | Model, suite: Sequence[Method], seed: int) -> dict[str, Any]:
    return {"name": name, "model": plain(model), "seed": seed, "measure": [entry(each) for each in suite]}
