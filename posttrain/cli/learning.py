"""Commands that teach: which methods and recipes there are, what a setting means, what this machine is."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from posttrain import recipes as shelf
from posttrain.schema.errors import UsageError, nearest
from posttrain.schema.find import attacks as all_attacks
from posttrain.schema.find import methods as all_methods

from .terminal import Paint, Terminal
from .words import Words

if TYPE_CHECKING:
    from posttrain.schema.settings import Option, Settings

KINDS = {
    "objective": "train weights",
    "transform": "rewrite a model",
    "generator": "make data",
    "measure": "judge a model",
}
LONGEST = 160  # characters of a default that are shown
ATTACKS = "ways to put a request, in the `attacks` of red_team and attack_success"


def methods(words: list[str], terminal: Terminal) -> int:
    """`posttrain methods [NAME]`"""
    parser = Words("methods", "All methods by what they return; with a NAME, that one's paper and every setting.")
    parser.add_argument("name", nargs="?", metavar="NAME")
    name = parser.read(words).name
    if name:
        return describe(name, terminal)
    if terminal.json:
        listed = {"methods": all_methods(), "attacks": all_attacks()}
        terminal.object(
            {
                what: [{"name": e.name, "kind": e.kind, "summary": e.summary} for e in entries.values()]
                for what, entries in listed.items()
            }
        )
        return 0
    for kind, does in KINDS.items():
        terminal.answer(Paint(f"{kind}s", "bold"), f"  {does}")
        terminal.table([[entry.name, entry.summary] for entry in all_methods().values() if entry.kind == kind])
    terminal.answer(Paint("attacks", "bold"), f"  {ATTACKS}")
    terminal.table([[entry.name, entry.summary] for entry in all_attacks().values()])
    terminal.next("posttrain methods NAME", "posttrain NAME model=lab data=…")
    return 0


def describe(name: str, terminal: Terminal) -> int:
    """Prints one method: its docstring, its settings with defaults and help, and where it is used."""
    import inspect

    from posttrain.engine.method import stage_class
    from posttrain.schema.find import attack_class, class_of

    is_attack = name in all_attacks()
    if not is_attack and name not in all_methods() and ":" not in name:
        raise UsageError(f"There is no method {name!r}. {nearest(name, [*all_methods(), *all_attacks()])}")
    found = attack_class(name) if is_attack else class_of(name)
    stage = found if is_attack else stage_class(name)
    kind, does = ("attack", ATTACKS) if is_attack else (stage.kind, KINDS[stage.kind])
    text = inspect.getdoc(inspect.getmodule(found)) or inspect.getdoc(found) or ""
    settings = list(_options(stage))
    if terminal.json:
        fields = ("name", "type", "required", "help")
        listed = [{**{f: getattr(o, f) for f in fields}, "default": _plain(o.default)} for o in settings]
        terminal.object(
            {"name": name, "kind": kind, "description": text, "settings": listed, "recipes": shelf.using(name)}
        )
        return 0
    terminal.answer(Paint(name, "bold"), f"  {kind}: {does}\n")
    terminal.answer(f"{text}\n")
    wide = max((len(option.name) for option in settings), default=0)
    for option in settings:
        default = "required" if option.required else f"default {_shown(option.default)}"
        terminal.answer("  ", Paint(f"{option.name:<{wide}}", "bold"), f"  {_type(option.type)}, {default}")
        terminal.answer(f"  {'':<{wide}}  ", " ".join(option.help.split()))
    needed = [f"{option.name}=…" for option in settings if option.required]
    if is_attack:
        given = f"{{{name}: {{{', '.join(word.replace('=', ': ') for word in needed)}}}}}" if needed else name
        terminal.answer(f"\nIn a recipe: attacks: [{given}]")
        return 0
    terminal.answer(f"\nOn the command line: posttrain {' '.join([name, 'model=lab', *needed])}")
    if used := shelf.using(name):
        terminal.answer(f"Shipped recipes: {', '.join(used)}")
        terminal.next(f"posttrain run {used[0]}", f"posttrain new {used[0]}")
    return 0


def _options(settings: type["Settings"], above: str = "") -> Iterator["Option"]:
    """The settings of a class; those inside a setting follow it, as `adapter.lora.rank`."""
    from posttrain.schema.settings import Rows, Settings, options

    for option in options(settings):
        yield replace(option, name=f"{above}{option.name}")
        annotation = settings.model_fields[option.name].annotation
        for inner in get_args(annotation) or (annotation,):
            if isinstance(inner, type) and issubclass(inner, Settings) and inner is not Rows:
                for each in _options(inner, f"{above}{option.name}."):  # a group that may be left out asks for nothing
                    yield replace(each, required=each.required and option.required)


def _type(written: str) -> str:
    """A type as a reader wants it: no module paths, and the words of a Literal as alternatives."""
    words = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace(", ", " | ").replace("'", ""), written)
    return re.sub(r"\b(\w+\.)+(?=[A-Z])", "", words).replace("None", "none")


def _plain(default: Any) -> Any:
    """A default as JSON and YAML write it."""
    return default.model_dump(mode="json") if hasattr(default, "model_dump") else default


def _shown(default: Any) -> str:
    if hasattr(default, "model_dump"):
        return "as below"
    if default in (None, ()):
        return "none"
    text = {None: "none", "": "''"}.get(default, str(default)) if isinstance(default, str | None) else str(default)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def recipes(words: list[str], terminal: Terminal) -> int:
    """`posttrain recipes`"""
    Words("recipes", "The recipes that ship with the package.").read(words)
    found = shelf.shipped()
    if terminal.json:
        listed = [{"name": name, "summary": shelf.summary(path), "path": str(path)} for name, path in found.items()]
        terminal.object({"recipes": listed})
        return 0
    terminal.table([[name, shelf.summary(path)] for name, path in found.items()])
    terminal.next("posttrain run NAME", "posttrain new NAME")
    return 0


def new(words: list[str], terminal: Terminal) -> int:
    """`posttrain new [RECIPE] [-o FILE]`"""
    parser = Words("new", "Copies a shipped recipe (the quick start if none is named), to change it.")
    parser.add_argument("recipe", nargs="?", default=shelf.QUICKSTART, metavar="RECIPE")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to (default: NAME.yaml here)")
    asked = parser.read(words)
    found = shelf.shipped()
    if asked.recipe not in found:
        raise UsageError(f"No recipe {asked.recipe!r} ships with posttrain. {nearest(asked.recipe, found)}")
    target = asked.output or Path(f"{asked.recipe}.yaml")
    if target.exists():
        raise UsageError(f"{target} exists already. Name another file with `-o FILE`.")
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent}. Make it first, or name another file with `-o FILE`.")
    shutil.copyfile(found[asked.recipe], target)
    if terminal.json:
        terminal.object({"recipe": str(target)})
    else:
        terminal.answer(str(target))
    terminal.next(f"posttrain plan {target}", f"posttrain run {target}")
    return 0


def env(words: list[str], terminal: Terminal) -> int:
    """`posttrain env`"""
    Words("env", "Versions, cores, memory and disk of this machine.").read(words)
    found = dict(_environment())
    if terminal.json:
        terminal.object(found)
        return 0
    terminal.table(list(found.items()))
    return 0


def _environment() -> Iterator[tuple[str, str]]:
    from posttrain.engine.environment import environment, memory
    from posttrain.engine.files import readable

    yield from environment().items()
    yield "memory", readable(memory())
    yield "free disk", f"{readable(shutil.disk_usage('.').free)} in {Path.cwd()}"
    yield "accelerator", _accelerator()


def _accelerator() -> str:
    """What torch would compute on. Imports torch, which takes a second or two."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
