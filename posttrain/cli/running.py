"""Commands that do work: `run`, `plan`, `measure`, and every method by its own name.

A method on the command line is a recipe of one stage: what stands in YAML is what stands after its name.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from posttrain import recipes as shelf
from posttrain.report.text import clip
from posttrain.schema.errors import GateFailed, Stopped, UsageError, nearest
from posttrain.schema.find import methods
from posttrain.schema.record import GateResult, RunRecord

from .stopping import stoppable
from .terminal import Paint, Terminal
from .watching import Watcher
from .words import Words, split

OF_THE_RECIPE = ("name", "model", "seed", "measure", "stages")


def run(words: list[str], terminal: Terminal) -> int:
    """`posttrain run [RECIPE] [path=value …]`"""
    about = (
        "Runs a recipe (the quick start if none is named). What was made before is kept; the same command continues."
    )
    parser = Words("run", about)
    asked = _with_until(parser.with_overrides().with_out()).read(words)
    recipe, overrides = _recipe(asked.words)
    return _walk(recipe, overrides, asked, terminal)


def plan(words: list[str], terminal: Terminal) -> int:
    """`posttrain plan [RECIPE] [path=value …]`"""
    parser = Words("plan", "What `run` would do: every stage, what it reads, kept or to be made. Nothing is written.")
    asked = parser.with_overrides().with_out().read(words)
    recipe, overrides = _recipe(asked.words)
    terminal.draw("  reading the recipe …")
    from posttrain.pipeline.listing import as_json, as_text
    from posttrain.pipeline.memory import as_table, forecasts
    from posttrain.pipeline.run import preview

    found = preview(recipe, overrides, out=asked.out)
    terminal.draw("  reading the first rows …")
    memory = forecasts(found.plan, found.outside, found.states)
    if terminal.json:
        told = {name: forecast.as_dict() for name, forecast in memory.items()}
        terminal.object({**as_json(found.plan, found.states), "memory": told})
        return 0
    terminal.clear()
    terminal.answer(as_text(found.plan, found.states))
    for line in as_table(memory):
        terminal.answer(line)
    for name, forecast in memory.items():
        if forecast.too_large:
            terminal.say(Paint(f"warning  {name}: {forecast.warning}", "yellow"))
    terminal.next(" ".join(["posttrain run", *asked.words]))
    return 0


def measure(words: list[str], terminal: Terminal) -> int:
    """`posttrain measure MODEL MEASURE… [path=value …]`"""
    parser = Words("measure", "Measures one model: a name, a folder, a digest or a Hub id, with one measure or more.")
    asked = parser.with_overrides().with_out().read(words)
    names, overrides = split(asked.words)
    known = [entry.name for entry in methods().values() if entry.kind == "measure"]
    if len(names) < 2:
        raise UsageError(f"Name a model and a measure: posttrain measure lab size. Measures: {', '.join(known)}.")
    model, *chosen = names
    for name in chosen:
        if name not in known and ":" not in name:
            raise UsageError(f"There is no measure {name!r}. {nearest(name, known)}")
    called = [_called(name) for name in chosen]
    placed = [part if part.partition(".")[0] in called else f"{called[0]}.{part}" for part in overrides]
    if len(chosen) > 1 and placed != overrides:
        raise UsageError(f"With several measures, say whose setting it is: {called[0]}.{overrides[0]}")
    asked.until = None
    text = f"name: measure\nmeasure: {chosen!r}\n"
    return _walk(text, [f"model={model}", *placed], asked, terminal)


def method(words: list[str], terminal: Terminal) -> int:
    """`posttrain METHOD model=… data=… [option=value …]`"""
    name, *rest = words
    if {"-h", "--help", "help"} & set(rest):
        from .learning import describe

        return describe(name, terminal)
    asked = Words(name, "A recipe of one stage.").with_overrides().with_out().read(rest)
    names, settings = split(asked.words)
    if names:
        raise UsageError(f"{names[0]!r} is no setting. Write settings as `name=value`: posttrain {name} model=lab …")
    short = _called(name)
    judges = name in methods() and methods()[name].kind == "measure"
    text = f"name: {short}\n{'measure' if judges else 'stages'}: [{name!r}]\n"
    given = [setting.partition("=")[0].partition(".")[0] for setting in settings]
    if not judges and "measure" not in given:
        text += "measure: [size]\n"  # a run is measured with something, or its report would be empty
    overrides = [
        part if head in OF_THE_RECIPE else f"{short}.{part}" for part, head in zip(settings, given, strict=True)
    ]
    asked.until = None
    return _walk(text, overrides, asked, terminal)


def _called(method: str) -> str:
    """What an entry of a recipe is called that was given no name: `my_losses:Mine` is `mine`."""
    return method.rpartition(":")[2].lower()


def _with_until(parser: Words) -> Words:
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    return parser


def _recipe(words: Sequence[str]) -> tuple[Path, list[str]]:
    names, overrides = split(words)
    if len(names) > 1:
        raise UsageError(f"One recipe at a time, not {' and '.join(names)}. A setting is written `path=value`.")
    return shelf.locate(names[0] if names else shelf.QUICKSTART), overrides


def _walk(recipe: Path | str, overrides: Sequence[str], asked: argparse.Namespace, terminal: Terminal) -> int:
    """Runs a recipe while telling what happens, then shows what came out."""
    terminal.draw("  loading …")
    from posttrain.pipeline.run import run as walk

    watcher = Watcher(terminal, with_changes=isinstance(recipe, Path))
    with stoppable(lambda text: terminal.say(Paint(text, "yellow"))) as stop:
        try:
            ran = walk(recipe, overrides, out=asked.out, on_event=watcher, stop=stop, until=asked.until)
        except Stopped as stopped:
            raise Stopped(str(stopped), stop.signal or 2) from stopped
    if not terminal.json:
        _show(ran.record, terminal)
        terminal.say(Paint("Report  ", "dim"), str(ran.report))
    if ran.gates_failed:
        raise GateFailed(_failed_gates(ran.record))
    made = [model.name for model in ran.record.models]
    terminal.next(
        *([f"posttrain compare {made[0]} {made[-1]}"] if len(made) > 1 else []), f"posttrain show {ran.folder}"
    )
    return 0


def _show(record: RunRecord, terminal: Terminal) -> None:
    from posttrain.report.terminal import summary

    terminal.clear()
    terminal.say("")
    for line in summary(record, terminal.ascii_out):
        terminal.answer(line)


def _on(gate: GateResult) -> str:
    """The prompts that made the difference, inert."""
    shown = ", ".join(repr(clip(prompt, 60).start) for prompt in gate.changed)
    return f" (worse on {shown} …)" if shown else ""


def _failed_gates(record: RunRecord) -> str:
    failed = [
        (stage.name, gate) for stage in record.stages for gate in stage.gates if not (gate.passed or gate.goes_on)
    ]
    told = "; ".join(
        f"after {name}, {gate.rule} does not hold: it is {gate.value:.4g}{_on(gate)}" for name, gate in failed
    )
    return (
        f"A gate failed: {told}. All that was made is kept. Change the stage or its `gate:`, and run the recipe again."
    )
