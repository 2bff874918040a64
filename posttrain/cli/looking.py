"""Commands that show what was made: `show`, `compare`, `report`. They read; nothing is computed again but reports."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from posttrain.schema.artifacts import Artifact
from posttrain.schema.errors import UsageError, nearest
from posttrain.schema.record import ModelRecord, RunRecord, StageRecord

from . import places
from .terminal import Paint, Terminal
from .words import Words

FORMATS = (".html", ".md", ".json")


def show(words: list[str], terminal: Terminal) -> int:
    """`posttrain show [RUN | MODEL | DIGEST]`"""
    parser = Words(
        "show", "A run (the latest if none is named), a model of a run, or an artifact by its digest."
    ).with_out()
    parser.add_argument("name", nargs="?", metavar="NAME", help="quickstart-1, quickstart-1/sft, sft, or a digest")
    asked = parser.read(words)
    name, out = asked.name, asked.out
    if folder := places.exact_run(name, out):
        return _show_run(places.record(folder), folder, terminal)
    if name is None:
        raise UsageError(places.NO_RUN.format(out=out))
    if found := places.model(name, out):
        return _show_model(*found, terminal)
    if folder := places.run_folder(name, out):
        return _show_run(places.record(folder), folder, terminal)
    if artifact := places.artifact(name, out):
        return _show_artifact(artifact, terminal)
    known = [run.name for run in places.runs(out)]
    raise UsageError(f"There is no run, model or artifact {name!r} in {out}. {nearest(name, known)}")


def _show_run(record: RunRecord, folder: Path, terminal: Terminal) -> int:
    if terminal.json:
        terminal.object(as_json(record))
        return 0
    from posttrain.report.numbers import seconds
    from posttrain.report.terminal import summary

    terminal.answer(Paint(record.name, "bold"), f"  {folder}\n")
    rows = [
        [s.name, s.method, f"from {s.source}", s.state, seconds(s.seconds) if s.seconds else ""] for s in record.stages
    ]
    terminal.table(rows)
    terminal.answer("")
    for line in summary(record, terminal.ascii_out):
        terminal.answer(line)
    models = [model.name for model in record.models]
    compare = [f"posttrain compare {models[0]} {models[-1]}"] if len(models) > 1 else []
    terminal.next(f"posttrain report {folder.name} -o report.html", *compare)
    return 0


def _show_model(record: RunRecord, model: ModelRecord, terminal: Terminal) -> int:
    stage = next((stage for stage in record.stages if stage.model == model.name), None)
    if terminal.json:
        terminal.object({"run": record.name, "model": _model_json(model), "stage": stage and _stage_json(stage)})
        return 0
    from posttrain.engine.files import readable
    from posttrain.report.numbers import interval, value

    terminal.answer(Paint(model.name, "bold"), f"  a model of run {record.name}\n")
    facts = [["form", model.form], ["size", readable(model.bytes)], ["digest", model.digest], ["folder", model.path]]
    if stage:
        settings = ", ".join(f"{name}={given}" for name, given in stage.settings.items())
        facts = [["made by", f"{stage.method} from {stage.source}"], ["settings", settings], *facts]
    terminal.table(facts)
    measured = [
        [f"{name}.{metric}", value(found), interval(found.low, found.high, found.unit)]
        for name, findings in model.findings.items()
        for metric, found in findings.metrics.items()
    ]
    terminal.answer("\nmeasured" if measured else "\nnot measured")
    terminal.table(measured)
    if stage:
        terminal.next(f"posttrain compare {stage.source} {model.name}")
    return 0


def _show_artifact(artifact: Artifact, terminal: Terminal) -> int:
    manifest = artifact.manifest()
    if terminal.json:
        terminal.object({**manifest, "path": str(artifact.path)})
        return 0
    from posttrain.engine.files import readable

    terminal.answer(Paint(artifact.digest, "bold"), f"  a {artifact.kind} made by {artifact.method}\n")
    rows = [[name, json.dumps(manifest[name], ensure_ascii=False)] for name in ("settings", "inputs", "seed", "facts")]
    rows += [[name, readable(entry.bytes)] for name, entry in artifact.files.items()]
    terminal.table([["folder", str(artifact.path)], *rows])
    return 0


def compare(words: list[str], terminal: Terminal) -> int:
    """`posttrain compare A B`"""
    parser = Words("compare", "What model B does differently from model A, row against row.").with_out()
    parser.add_argument("before", metavar="A", help="a model: sft, quickstart-1/sft, or a digest")
    parser.add_argument("after", metavar="B")
    asked = parser.read(words)
    before, after = places.the_model(asked.before, asked.out), places.the_model(asked.after, asked.out)
    from posttrain.report.compare import compare as compared
    from posttrain.report.terminal import comparison

    found = compared(before, after)
    if terminal.json:
        changes = [{**asdict(change), "name": change.name} for change in found.changes]
        terminal.object({"before": found.before, "after": found.after, "changes": changes})
        return 0
    for line in comparison(found, terminal.ascii_out):
        terminal.answer(line)
    terminal.next("posttrain report -o report.html", f"posttrain show {asked.after}")
    return 0


def report(words: list[str], terminal: Terminal) -> int:
    """`posttrain report [RUN] [-o FILE]`"""
    parser = Words(
        "report", "The before/after report of a run (the latest if none is named), computed anew."
    ).with_out()
    parser.add_argument("run", nargs="?", metavar="RUN")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="report.html or report.md; Markdown on stdout if not given"
    )
    asked = parser.read(words)
    target: Path | None = asked.output
    if target and target.suffix not in FORMATS:
        raise UsageError(
            f"{target} ends in {target.suffix or 'nothing'!r}. Name a file that ends in {', '.join(FORMATS)}."
        )
    record = places.record(places.the_run(asked.run, asked.out))
    if target is None:
        if terminal.json:
            terminal.object(as_json(record))
        else:
            terminal.answer(_rendered(record, ".md"))
        return 0
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent}. Make it first, or name another file.")
    from posttrain.engine.files import replace_text, room_for

    with room_for("the report", target):
        replace_text(target, _rendered(record, target.suffix))
    terminal.answer(str(target)) if not terminal.json else terminal.object({"report": str(target)})
    return 0


def _rendered(record: RunRecord, suffix: str) -> str:
    if suffix == ".json":
        return json.dumps(as_json(record), indent=1, ensure_ascii=False, default=str) + "\n"
    if suffix == ".md":
        from posttrain.report.markdown import markdown

        return markdown(record)
    from posttrain.report.html import html

    return html(record)


def as_json(record: RunRecord) -> dict[str, Any]:
    """A run as plain values, without samples and curves."""
    return {
        "name": record.name,
        "seconds": record.seconds,
        "stages": [_stage_json(stage) for stage in record.stages],
        "models": [_model_json(model) for model in record.models],
        "machine": dict(record.machine),
        "warnings": list(record.warnings),
    }


def _stage_json(stage: StageRecord) -> dict[str, Any]:
    described = asdict(stage)
    del described["curve"]
    return described


def _model_json(model: ModelRecord) -> dict[str, Any]:
    findings = {name: found.as_dict() for name, found in model.findings.items()}
    described = {name: getattr(model, name) for name in ("name", "digest", "path", "form", "bytes")}
    return {**described, "findings": findings}
