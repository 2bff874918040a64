"""The recipes that ship with the package, by name. The first line of each is a comment that says what it shows."""

import re
from pathlib import Path

from posttrain.schema.errors import UsageError, nearest

FOLDER = Path(__file__).parent
QUICKSTART = "quickstart"
ENDINGS = (".yaml", ".yml")


def shipped() -> dict[str, Path]:
    """Every shipped recipe by its name, sorted."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def summary(path: Path) -> str:
    """The sentence that a recipe begins with."""
    with path.open(encoding="utf-8") as lines:
        return next(lines, "").lstrip("# ").strip()


def using(method: str) -> list[str]:
    """Names of the shipped recipes that use a method: the one of its own name first, then the quick start."""
    entry = re.compile(rf"^\s*- (\w+: *)?(\{{ *)?{re.escape(method)}\b|\[ *{re.escape(method)}\b", re.MULTILINE)
    found = [name for name, path in shipped().items() if entry.search(path.read_text(encoding="utf-8"))]
    return sorted(found, key=lambda name: (name != method.replace("_", "-"), name != QUICKSTART, name))


def locate(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of a shipped one. Raises UsageError that names the nearest."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if str(name) in shipped():
        return shipped()[str(name)]
    if path.is_dir():
        raise UsageError(f"{str(name)!r} is a folder. Name the recipe in it: {path}/….yaml")
    if path.suffix in ENDINGS and path.parent.is_dir():
        beside = [each.name for each in path.parent.iterdir() if each.suffix in ENDINGS]
        if beside:
            raise UsageError(f"There is no recipe {str(name)!r}. {nearest(path.name, beside)}")
    raise UsageError(
        f"There is no recipe {str(name)!r}. {nearest(path.stem, shipped())} Copy one with `posttrain new`."
    )
