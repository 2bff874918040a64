"""Sizes and names that keep the code readable. An exception is listed with its reason, or it is none."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("posttrain", "lab_build", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
PACKAGE = [path for path in SOURCES if path.is_relative_to(ROOT / "posttrain")]

LONGEST_FILE, LONGEST_FUNCTION, LONGEST_CLASS, MOST_SETTINGS = 300, 60, 200, 14
LONG_FILES: dict[str, str] = {}  # name -> why it is one thing
NO_NAMES = re.compile(r"(^|_)(utils?|helpers?|misc|common)($|_)|(Manager|Helper|Utils?|Base)$")
LEFTOVERS = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|\bbreakpoint\(|\bpdb\b")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def length(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_functions_and_classes_are_short(path: Path):
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= LONGEST_FILE or name_of(path) in LONG_FILES, f"{n_lines} lines: is it one thing?"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert length(node) <= LONGEST_FUNCTION, f"{node.name} has {length(node)} lines"
        if isinstance(node, ast.ClassDef):
            assert length(node) <= LONGEST_CLASS, f"{node.name} has {length(node)} lines"


def test_every_exception_is_still_needed():
    for name in LONG_FILES:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) > LONGEST_FILE, f"{name} is short now"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_names_say_what_a_thing_is(path: Path):
    defined = [n.name for n in ast.walk(tree_of(path)) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    for name in [path.stem, *defined]:
        assert not NO_NAMES.search(name), f"{name} says nothing: name it after what it does"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_left_unfinished(path: Path):
    found = LEFTOVERS.search(path.read_text(encoding="utf-8"))
    assert found is None, found


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_modules_and_public_names_are_documented(path: Path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), "a module says what it is"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or length(node) <= 4, f"{node.name} has no docstring"


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_functions_are_typed(path: Path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            assert not untyped, f"{node.name}: {untyped} have no type"
            assert node.returns is not None or node.name == "__init__", f"{node.name} has no return type"


def settings_of(node: ast.ClassDef) -> list[tuple[ast.AnnAssign, ast.stmt | None]]:
    """Fields of a settings class with the statement that follows each."""
    after = [*node.body[1:], None]
    return [
        (field, following)
        for field, following in zip(node.body, after, strict=True)
        if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation)
    ]


def settings_classes() -> list[tuple[Path, ast.ClassDef]]:
    roots = {"Settings", "OneModel", "Asking", "Stepping", "Stage", "Objective", "Transform", "Generator", "Measure"}
    return [
        (path, node)
        for path in PACKAGE
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & roots
    ]


def test_every_setting_is_explained_in_a_sentence():
    found = settings_classes()
    assert len(found) > 10
    for path, node in found:
        fields = settings_of(node)
        assert len(fields) <= MOST_SETTINGS, f"{name_of(path)}: {node.name} has {len(fields)} settings"
        for field, following in fields:
            told = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            where = f"{name_of(path)}: {node.name}.{ast.unparse(field.target)}"
            assert told and str(following.value.value).rstrip().endswith("."), f"{where} has no sentence under it"


def judging(tree: ast.Module) -> set[str]:
    """Names of the functions of a file that assert or expect an error, by themselves or through one another."""
    functions = {node.name: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found = {name for name, text in functions.items() if re.search(r"\bassert\b|raises\(|assert_|\bcheck", text)}
    while more := {
        name
        for name, text in functions.items()
        if name not in found and any(re.search(rf"\b{judge}\(", text) for judge in found)
    }:
        found |= more
    return found


def test_tests_can_fail():
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = tree_of(path)
        tests = {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
        assert tests <= judging(tree), f"{path}: {tests - judging(tree)} assert nothing"


def test_every_method_has_a_recipe_and_a_test():
    from posttrain import recipes
    from posttrain.schema.find import FOLDERS, methods

    folders = {kind: folder for folder, kind in FOLDERS.items()}
    for entry in methods().values():
        assert recipes.using(entry.name), f"no recipe uses {entry.name}"
        place = ROOT / "tests" / "methods" / folders[entry.kind] / f"test_{entry.name}.py"
        assert place.is_file(), f"{place} is missing"
