"""Imports only point down. What a layer may import is written here once; everything else is a mistake."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "posttrain"

MAY_IMPORT = {
    "schema": set(),
    "recipes": {"schema"},
    "functional": {"schema"},
    "lab": {"schema", "functional"},
    "report": {"schema", "functional"},
    "data": {"schema", "functional"},
    "models": {"schema", "functional", "data"},
    "engine": {"schema", "functional", "data", "models", "lab"},
    "methods": {"schema", "functional", "data", "models", "engine"},
    "pipeline": {"schema", "functional", "data", "models", "engine", "report", "recipes"},
    "cli": {"schema", "functional", "engine", "pipeline", "report", "recipes"},
}
TOP = {"__init__", "__main__"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of every module that a file imports, wherever in it, those for type checking included."""
    here = ("posttrain", *path.relative_to(PACKAGE).with_suffix("").parts)
    package = here[:-1]  # a module's own package; `__init__` is a module of its package as well
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parts_of(name: str) -> list[str]:
    first, *rest = name.split(".")
    return rest if first == "posttrain" else []


def test_every_folder_is_a_layer():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert folders == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path: Path):
    own = layer(path)
    if own in TOP:
        return
    reached = {parts[0] for name in imports(path) if (parts := parts_of(name))} - {own}
    reached &= set(MAY_IMPORT)
    assert reached <= MAY_IMPORT[own], f"{own} may not import {', '.join(sorted(reached - MAY_IMPORT[own]))}"


def outside(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("name", ["schema", "recipes", "report", "lab", "cli"])
def test_light_layers_stay_light(name: str):
    """Words, reports and the lab need no torch; nothing in `schema` opens a file but the listing of methods."""
    for path in (PACKAGE / name).rglob("*.py"):
        heavy = outside(path) & {"torch", "transformers", "peft", "datasets"}
        if path == PACKAGE / "cli" / "learning.py":
            heavy -= {"torch"}  # `posttrain env` asks it for the accelerator
        assert not heavy, f"{path} imports {heavy}"


def test_schema_does_not_touch_the_disk():
    for path in (PACKAGE / "schema").glob("*.py"):
        if path.name == "find.py":  # lists the methods by their file names
            continue
        text = path.read_text(encoding="utf-8")
        for call in ("open(", ".read_text", ".write_text", "import os", "import shutil"):
            assert call not in text, f"{path} uses {call}"


def test_methods_never_import_each_other():
    for path in (PACKAGE / "methods").rglob("*.py"):
        reached = {tuple(parts) for name in imports(path) if (parts := parts_of(name)) and parts[0] == "methods"}
        assert not reached, f"{path} imports {reached}"


def test_only_the_finder_knows_methods():
    """The pipeline and the engine find methods by name."""
    for path in FILES:
        if layer(path) in TOP | {"methods"}:
            continue
        assert not any(parts[:1] == ["methods"] for parts in map(parts_of, imports(path))), path


def test_there_is_no_cycle_between_layers():
    done: set[str] = set()
    while left := {name for name in MAY_IMPORT if name not in done}:
        free = {name for name in left if MAY_IMPORT[name] <= done}
        assert free, f"a cycle among {left}"
        done |= free
