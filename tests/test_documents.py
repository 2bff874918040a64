"""What the documents show is true: recipes can be planned, commands exist, Python names are there, links lead somewhere."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def fences(language: str) -> Iterator[tuple[str, str]]:
    """(where, text) of every block of a language in the documents."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for found in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text[: found.start()].count("\n") + 1
            yield f"{path.name}:{line}", found[1]


@pytest.mark.parametrize(("where", "text"), list(fences("yaml")))
def test_every_recipe_can_be_planned(where: str, text: str):
    from posttrain import lab
    from posttrain.pipeline.plan import load

    plan = load(text, where)
    assert plan.steps
    for _, source in plan.outside():
        if source.name.startswith("lab:"):
            assert source.name.removeprefix("lab:") in lab.names()


def commands() -> Iterator[tuple[str, list[str]]]:
    for where, text in fences("bash"):
        for line in text.splitlines():
            if words := shlex.split(line, comments=True):
                yield f"{where} {line}", words


def test_every_command_exists():
    from posttrain.cli.main import COMMANDS
    from posttrain.schema.find import methods

    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    found = list(commands())
    assert len(found) > 8
    for where, (program, verb, *_) in found:
        known = {"make": targets, "posttrain": {*COMMANDS, *methods()}}[program]
        assert verb in known, f"{where}: there is no {verb!r}"


def test_commands_on_methods_name_settings_that_there_are():
    from posttrain.engine.method import stage_class
    from posttrain.schema.find import methods

    for where, (program, verb, *words) in commands():
        if program == "posttrain" and verb in methods():
            given = {word.partition("=")[0].partition(".")[0] for word in words} - {"model", "seed", "measure"}
            assert given <= set(stage_class(verb).model_fields), where


def test_python_uses_names_that_there_are():
    import posttrain

    for where, text in fences("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pt":
                assert hasattr(posttrain, node.attr), f"{where}: posttrain has no {node.attr}"


def test_links_lead_somewhere():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_readme_names_every_method():
    from posttrain.schema.find import methods

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in methods():
        assert f"`{name}`" in text, f"README.md does not name {name}"
