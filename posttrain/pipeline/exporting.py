"""Exporting a model: what has to be made first is made in the store, then a folder is written, compared and described.

adapter -> merge -> gguf -> folder          dense -> gguf -> folder          dense -> folder
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.data.program import PromptProgram
from posttrain.engine.exporting import FILES, Exported, export_file, export_folder, steps_to
from posttrain.engine.files import files_under, room_for, whole_folder
from posttrain.engine.store import Store
from posttrain.report.exported import readme
from posttrain.schema.artifacts import Artifact, Model
from posttrain.schema.errors import Stopped, UsageError
from posttrain.schema.record import RunRecord
from posttrain.schema.rows import Message, Prompt
from posttrain.schema.targets import Target

from .recipe import BASE
from .run import prepare
from .work import Work, base_of, given

TYPE = "q8_0"


def _nothing(text: str) -> None:
    return None


@dataclass(frozen=True)
class Order:
    """What is exported to what: `kind` is the type of a GGUF file, `name` what the model is called, `record` the run that made
    it."""

    model: Model
    target: Target
    place: Path
    name: str
    merge: bool = False
    kind: str | None = None
    record: RunRecord | None = None


def export(
    order: Order, store: Store, tell: Callable[[str], None] = _nothing, stop: Callable[[], bool] = lambda: False
) -> Exported:
    """Writes the folder `order.place`, whole or not at all. Raises ModelError where the program would not compute what the
    model does, UsageError for a place that is taken, and DiskFull."""
    if order.kind and order.target not in FILES:
        raise UsageError(
            f"`--type` is of GGUF files, and {order.target} gets none. Leave it out, or write `--to llama.cpp`."
        )
    steps = steps_to(order.target, order.model, order.merge)
    with whole_folder(order.place, "the export", order.model.bytes if not steps else 0) as folder:
        model = order.model
        for method in steps:
            model = _made(store, method, model, order.kind or TYPE, tell, stop)
            tell(f"{method}: {model.path.name}")
            if stop():
                raise Stopped("Stopped before anything was exported. What was made is kept: the same command goes on.")
        write = (model, order.target, folder, _called(order.name))
        tell("comparing")
        # a GGUF model of the store may hold files of several types; what was just made holds one
        kind = None if steps else order.kind
        found = export_file(*write, kind) if order.target in FILES else export_folder(*write)
        shown, lost = _shown(model, order.target)
        found = replace(found, lost=(*found.lost, *lost))
        page = readme(order.name, order.target, found.commands, found.verified, found.lost, shown, order.record)
        (folder / "README.md").write_text(page, encoding="utf-8")
        files = tuple(path.relative_to(folder).as_posix() for path in files_under(folder))
    return replace(found, files=files)


def _made(
    store: Store, method: str, model: Model, kind: str, tell: Callable[[str], None], stop: Callable[[], bool]
) -> Model:
    """What a stage makes of a model, kept or made now."""
    settings = {"types": [kind]} if method == "gguf" else {}
    plan, outside = prepare({"name": "export", "model": str(model.path), "stages": [{method: settings}]}, (), store)
    (step,) = plan.steps
    made: dict[str, Artifact] = {BASE: outside[base_of(plan).identity]}
    work = Work(step, given(step, made, outside), plan.recipe.seed)

    def emit(event: str, **said: Any) -> None:
        if event == "note":
            tell(str(said["text"]))

    with room_for(f"`{method}`", store.root):
        found = store.find(work.key) or work.make(store, f"export/{step.name}", emit, stop)
    assert isinstance(found, Model)
    return found


def _shown(model: Model, target: Target) -> tuple[str, tuple[str, ...]]:
    """What has to stand before every question by the model's prompt program, and a sentence that says so, where the program that
    it is exported to knows none."""
    program = PromptProgram.load(model.path)
    if program is None or target == "ollama":
        return "", ()
    if program.by_task and program.examples:
        return "", ("examples: they are chosen by the task of a question, which no other program knows",)
    row = Prompt((Message("user", "QUESTION"),), plain="QUESTION")
    if program.layout == "plain":
        return program.text(row), ("how it is asked: in lines of plain text and not in a chat; README.md shows how",)
    if not program.examples:
        return "", ()
    messages = [message.as_dict() for message in program.messages(row)]
    text = json.dumps(messages, ensure_ascii=False, indent=1)
    return text, (
        f"{program.k} examples that stand before every question: README.md holds them, to be put there by you",
    )


def _called(name: str) -> str:
    """A name as programs take it for a model."""
    return (
        "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower()).strip("-")
        or "model"
    )
