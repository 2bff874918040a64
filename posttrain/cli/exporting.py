"""`posttrain export`: a model for another program, compared with itself there before it is called good."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.schema.errors import ModelError, Stopped, UsageError, nearest
from posttrain.schema.record import RunRecord
from posttrain.schema.targets import TARGETS

from . import places
from .stopping import stoppable
from .terminal import Paint, Terminal
from .words import OUT, Words

if TYPE_CHECKING:
    from posttrain.engine.store import Store
    from posttrain.schema.artifacts import Model


def export(words: list[str], terminal: Terminal) -> int:
    """`posttrain export MODEL --to PROGRAM [--out FOLDER]`"""
    asked = _parser().read(words)
    if asked.to not in TARGETS:
        raise UsageError(f"Models are not exported to {asked.to!r}. {nearest(asked.to, TARGETS)}")
    terminal.draw("  loading …")
    from posttrain.engine.store import Store

    store = Store(asked.runs / "store")
    model, name, record = _model(asked.model, asked.runs, store)
    place = asked.out or Path(f"{name}-{asked.to}")
    from posttrain.pipeline.exporting import Order, export
    from posttrain.report.exported import told

    order = Order(model, asked.to, place, name, asked.merge, asked.type, record)
    with stoppable(lambda text: terminal.say(Paint(text, "yellow"))) as stop:
        try:
            found = export(order, store, lambda text: terminal.say(f"  {text}"), stop)
        except Stopped as stopped:
            raise Stopped(str(stopped), stop.signal or 2) from stopped
    terminal.clear()
    following = [command.replace("FOLDER", shlex.quote(str(place))) for command in found.commands]
    if terminal.json:
        said = {"folder": str(place), "to": asked.to, "verified": dict(found.verified), "lost": list(found.lost)}
        terminal.object({**said, "files": list(found.files), "next": following})
        return 0
    terminal.answer(Paint(str(place), "bold"), f"  {name} for {asked.to}: {', '.join(found.files)}")
    terminal.answer(f"verified: {found.verified['verified']}  ({told(found.verified)})")
    for sentence in found.lost:
        terminal.answer(Paint("not carried over  ", "yellow"), sentence)
    terminal.next(*following)
    return 0


def _parser() -> Words:
    about = (
        "Writes what another program needs of a model, and proves that it computes the same there: token ids, chats, logits. A "
        "model that it would compute otherwise is refused, and nothing is left behind."
    )
    parser = Words("export", about)
    parser.add_argument("model", metavar="MODEL", help="a model: sft, quickstart-1/sft, a digest, a folder, or lab")
    parser.add_argument("--to", required=True, metavar="PROGRAM", help=", ".join(TARGETS))
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write it (default: MODEL-PROGRAM here)")
    parser.add_argument(
        "--type", metavar="TYPE", help="of the GGUF file (default: q8_0, or the smallest that there is)"
    )
    parser.add_argument("--merge", action="store_true", help="put an adapter into its base's weights first")
    parser.add_argument("--runs", type=Path, default=OUT, metavar="DIR", help="where runs are kept (default: runs)")
    return parser


def _model(name: str, runs: Path, store: "Store") -> tuple["Model", str, RunRecord | None]:
    """The model of a name, what it is called, and the run that made it. Raises UsageError."""
    is_path = name.startswith((".", "/", "~"))
    if not is_path and (found := places.model(name, runs)):
        record, known = found
        return store.model(known.path), known.name, record
    folder = Path(name).expanduser()
    if is_path or name == "lab" or folder.exists() or store.lookup(name):
        return store.model(name), folder.name or "model", None
    if places.runs(runs):
        places.the_model(name, runs)
    raise ModelError(f"There is no model {name!r}: no folder, and no run in {runs}. {nearest(name, ['lab'])}")
