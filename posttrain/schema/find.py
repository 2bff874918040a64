"""From a name to a method. The file name is the registry: `methods/objectives/dpo.py` holds the class `DPO`.

Listing reads file names and first docstring lines and imports nothing, so help is quick. `my_package.losses:Mine`
names a class outside the package. Attacks, which stages of red teaming run, are found in `methods/attacks` in the same way.
"""

import ast
import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UsageError, nearest

FOLDERS = {"objectives": "objective", "transforms": "transform", "generators": "generator", "measures": "measure"}
ATTACKS = "attacks"
METHODS = Path(__file__).parent.parent / "methods"


@dataclass(frozen=True, slots=True)
class Entry:
    """A method as the listing shows it. `kind` is what it returns: objective, transform, generator or measure."""

    name: str
    kind: str
    module: str
    summary: str


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


@cache
def methods() -> dict[str, Entry]:
    """All methods of the package by name, sorted by kind and name."""
    return {entry.name: entry for folder, kind in FOLDERS.items() for entry in _entries(folder, kind)}


@cache
def attacks() -> dict[str, Entry]:
    """All attacks of the package by name."""
    return {entry.name: entry for entry in _entries(ATTACKS, "attack")}


def _entries(folder: str, kind: str) -> list[Entry]:
    paths = sorted((METHODS / folder).glob("[a-z]*.py"))
    return [Entry(path.stem, kind, f"posttrain.methods.{folder}.{path.stem}", _summary(path)) for path in paths]


def class_of(name: str) -> type[Any]:
    """The class of a method, by its name or by `package.module:Class`. Raises UsageError naming the nearest method."""
    if ":" in name:
        return _dotted(name)
    return _class_in(methods(), name)


def attack_class(name: str) -> type[Any]:
    """The class of an attack, likewise."""
    return _dotted(name) if ":" in name else _class_in(attacks(), name)


def _class_in(entries: dict[str, Entry], name: str) -> type[Any]:
    if name not in entries:
        kind = "attack" if entries is attacks() else "method"
        raise UsageError(f"There is no {kind} {name!r}. {nearest(name, entries)}")
    module = importlib.import_module(entries[name].module)
    wanted = name.replace("_", "")
    return next(v for k, v in vars(module).items() if k.lower() == wanted and isinstance(v, type))


def dotted(name: str) -> Any:
    """What `package.module:name` refers to. Raises UsageError when there is no such thing."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"Cannot load {name!r}: {error}. Write it as `package.module:name`, importable from here."
        ) from error


def _dotted(name: str) -> type[Any]:
    found = dotted(name)
    if not isinstance(found, type):
        raise UsageError(f"{name!r} is no class. Name a class that subclasses Objective or Stage.")
    return found
