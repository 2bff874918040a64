"""What a name on the command line refers to: a run, a model of a run, an artifact.

quickstart-2          a run in the folder of runs (`--out`), or a path to one
quickstart            the latest run of that recipe
sft, quickstart-2/sft a model of the latest run, of that run
4f0c9a…               an artifact by its digest or key
"""

from collections.abc import Iterator
from pathlib import Path

from posttrain.schema.artifacts import Artifact
from posttrain.schema.errors import UsageError, nearest
from posttrain.schema.record import ModelRecord, RunRecord

MARK = "recipe.yaml"  # every run's folder holds the recipe that it follows
NO_RUN = "There is no run in {out} yet. Make one with `posttrain run`, or name another folder with `--out DIR`."


def runs(out: Path) -> list[Path]:
    """The folders of all runs, the latest last."""
    found = [path for path in out.glob("*") if (path / MARK).is_file()]
    return sorted(found, key=_touched)


def _touched(run: Path) -> int:
    events = run / "events.jsonl"
    return (events if events.is_file() else run / MARK).stat().st_mtime_ns


def exact_run(name: str | None, out: Path) -> Path | None:
    """The run in that very folder (the latest of all if None), None when there is none."""
    if name is None:
        return next(reversed(runs(out)), None)
    return next((path for path in (Path(name), out / name) if (path / MARK).is_file()), None)


def run_folder(name: str | None, out: Path) -> Path | None:
    """The run of that name, or the latest of the recipe of that name; None when there is none."""
    of_recipe = (path for path in reversed(runs(out)) if path.name.rpartition("-")[0] == name)
    return exact_run(name, out) or next(of_recipe, None)


def the_run(name: str | None, out: Path) -> Path:
    """The run of that name. Raises UsageError."""
    found = run_folder(name, out)
    if found is not None:
        return found
    known = [path.name for path in runs(out)]
    if not known:
        raise UsageError(NO_RUN.format(out=out))
    raise UsageError(f"There is no run {name!r} in {out}. {nearest(str(name), known)}")


def record(folder: Path) -> RunRecord:
    """What is known of a run."""
    from posttrain.pipeline.record import read_run

    return read_run(folder)


def model(name: str, out: Path) -> tuple[RunRecord, ModelRecord] | None:
    """The model of that name and its run; None when no run has one."""
    where, _, short = name.rpartition("/")
    if where:
        folder = run_folder(where, out)
        folders = [folder] if folder else []
    else:
        folders = list(reversed(runs(out)))
    return next(_models(short, folders), None)


def _models(name: str, folders: list[Path]) -> Iterator[tuple[RunRecord, ModelRecord]]:
    """Models that are called `name` or whose digest begins with it."""
    for folder in folders:
        read = record(folder)
        for each in read.models:
            if each.name == name or (len(name) >= 6 and each.digest.startswith(name)):
                yield read, each


def the_model(name: str, out: Path) -> ModelRecord:
    """The model of that name. Raises UsageError that names the nearest of the latest run."""
    found = model(name, out)
    if found:
        return found[1]
    latest = run_folder(None, out)
    if latest is None:
        raise UsageError(NO_RUN.format(out=out))
    known = [each.name for each in record(latest).models]
    raise UsageError(f"No run in {out} has a model {name!r}. {nearest(name, known)} Another run's is written RUN/NAME.")


def artifact(name: str, out: Path) -> Artifact | None:
    """The artifact in a folder, or of that digest or key in the store beside the runs."""
    from posttrain.engine.store import Store, load
    from posttrain.schema.artifacts import MANIFEST

    if (Path(name) / MANIFEST).is_file():
        return load(Path(name))
    return next(iter(Store(out / "store").lookup(name)), None)
