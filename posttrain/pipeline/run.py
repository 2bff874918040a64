"""Running a recipe: into one folder, through events, to a report. The same command continues what was begun."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.engine.files import replace_text, room_for
from posttrain.engine.store import Store
from posttrain.recipes import locate
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import DiskFull, Stopped, UsageError, nearest
from posttrain.schema.record import RunRecord

from . import plan as planning
from .events import Events, Told
from .folder import EVENTS, check_place, run_folder, write_plan
from .listing import as_json
from .plan import Plan
from .record import read_run
from .tree import written
from .walk import Walk, what_failed
from .work import Outside, base_of, find_outside, states

STORE = "store"
RUNS = Path("runs")
Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """What came out: the models by name, and where the report is. `gates_failed` means that the run ended early."""

    name: str
    folder: Path
    record: RunRecord
    models: Mapping[str, Model]
    report: Path
    gates_failed: bool


def run(
    recipe: Source,
    overrides: Sequence[str] = (),
    *,
    out: Path | str = RUNS,
    on_event: Told | None = None,
    stop: Callable[[], bool] | None = None,
    until: str | None = None,
) -> Run:
    """Runs a recipe: a file, the name of a shipped one, YAML text (with a newline), or a mapping.

    What the store holds is kept, the rest is made; `until` ends after a stage; `stop` is asked between steps. Raises
    RecipeError before anything is written, Stopped after a checkpoint was saved, and whatever a method raises.
    """
    out = Path(out)
    check_place(out)
    damage: list[str] = []
    store = Store(out / STORE, on_damage=damage.append, on_wait=lambda key: _stop_waiting(stop))
    plan, outside = prepare(recipe, overrides, store)
    if until is not None and until not in plan.suite and until not in {step.name for step in plan.steps}:
        raise UsageError(f"There is no stage {until!r} to end after. {nearest(until, [s.name for s in plan.steps])}")
    with run_folder(out, plan.recipe.name, plan.recipe.digest) as folder:
        store.tidy()
        write_plan(folder, plan.recipe.text, {**as_json(plan), "base": _base(plan, outside)})
        with _events(folder, on_event) as events:
            store.on_damage = lambda text: events.emit("alert", level="warning", title=text, cure="")
            for text in damage:
                store.on_damage(text)
            walk = Walk(plan, store, outside, events, folder.name, stop or _never)
            passed = _told(walk, until)
        record = read_run(folder)
    return Run(folder.name, folder, record, walk.models(), folder / "report.html", not passed)


class Preview(NamedTuple):
    """A plan, what it reads from outside, and for every step and measurement (`sft`, `chat of sft`) whether it would
    be `kept` or `made`."""

    plan: Plan
    states: dict[str, str]
    outside: Outside


def preview(recipe: Source, overrides: Sequence[str] = (), *, out: Path | str = RUNS) -> Preview:
    """What `run` would do. Raises what it would raise before it starts."""
    store = Store(Path(out) / STORE)
    plan, outside = prepare(recipe, overrides, store)
    return Preview(plan, states(plan, store, outside), outside)


def prepare(recipe: Source, overrides: Sequence[str], store: Store) -> tuple[Plan, Outside]:
    """The plan, and all that it reads from outside. Raises RecipeError with every problem of either kind."""
    text, where = recipe_text(recipe)
    plan, problems = planning.drafted(text, where, overrides)
    outside, missing = find_outside(plan, store)
    base = outside.get(base_of(plan).identity) if plan.recipe.model else None
    if isinstance(base, Model) and base.form != "dense":  # what stages it may go through depends on that
        plan, problems = planning.drafted(text, where, overrides, base.form)
        outside, missing = find_outside(plan, store)
    planning.refuse([*problems, *missing])
    return plan, outside


def recipe_text(recipe: Source) -> tuple[str, str]:
    """The text of a recipe, and what to call it in messages."""
    if isinstance(recipe, Mapping):
        return written(dict(recipe)), "recipe"
    if isinstance(recipe, str) and "\n" in recipe:
        return recipe, "recipe"
    path = locate(recipe)
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text ({error}). Name a YAML file in UTF-8.") from error


def _base(plan: Plan, outside: Outside) -> dict[str, Any]:
    base = outside[base_of(plan).identity]
    return {**base.manifest(), "path": str(base.path)}


@contextmanager
def _events(folder: Path, on_event: Told | None) -> Iterator[Events]:
    events = Events(folder / EVENTS, on_event)
    try:
        yield events
    finally:
        events.close()


def _told(walk: Walk, until: str | None) -> bool:
    """Walks a plan between the first and the last event of a run. Returns whether all gates were passed."""
    plan, folder, begun = walk.plan, walk.events.path.parent, time.monotonic()
    walk.events.emit(
        "run_started",
        run=walk.run,
        recipe=plan.recipe.digest,
        stages=[step.name for step in plan.steps],
        models=list(plan.suite),
        changes=list(plan.recipe.changes),
        pid=os.getpid(),
        host=platform.node(),
    )
    try:
        passed = walk.go(until)
        write_reports(folder)
    except (Stopped, KeyboardInterrupt, SystemExit) as error:
        why = str(error) if isinstance(error, Stopped) else "interrupted"
        _told_last(walk.events, "stopped", why=why, stage=walk.doing)
        raise
    except BaseException as error:
        _told_last(walk.events, "failed", **what_failed(error, walk.doing))
        raise
    walk.events.emit("run_finished", seconds=time.monotonic() - begun, report=f"{walk.run}/report.html")
    return passed


def _told_last(events: Events, kind: str, **fields: Any) -> None:
    """How a run ended; on a full disk its end is told by the error alone."""
    with suppress(DiskFull):
        events.emit(kind, **fields)


def write_reports(folder: Path) -> None:
    """Computes report.md and report.html of a run from what it left behind."""
    from posttrain.report.html import html
    from posttrain.report.markdown import markdown

    record = read_run(folder)
    pages = {"report.md": markdown(record), "report.html": html(record)}
    with room_for("the report", folder, sum(len(text.encode()) for text in pages.values())):
        for name, text in pages.items():
            replace_text(folder / name, text)


def _stop_waiting(stop: Callable[[], bool] | None) -> None:
    if stop and stop():
        raise Stopped("Stopped while another process was making the same artifact. Run the same command to go on.")


def _never() -> bool:
    return False
