"""What ships: honest ranges, exact pins that fit them, and every file that the package needs at run time."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
UNPINNED = ("posttrain", "vllm")  # vLLM brings the torch that it was built for, and wants a GPU


def requirements() -> list[Requirement]:
    extras = [each for group in PROJECT["optional-dependencies"].values() for each in group]
    return [each for each in map(Requirement, [*PROJECT["dependencies"], *extras]) if each.name not in UNPINNED]


def test_torch_is_pinned_first():
    assert next(iter(PINS.items())) == ("torch", "2.13.0")


def test_every_requirement_is_pinned_within_its_range():
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in PINS.items()}
    for required in requirements():
        version = pins[re.sub(r"[-_.]+", "-", required.name).lower()]
        assert required.specifier.contains(Version(version)), f"{required} does not allow {version}"


def test_the_older_pair_of_a_common_image_is_allowed():
    ranges = {required.name: required.specifier for required in requirements()}
    for name, old, new in (("torch", "2.11.0", "2.13.0"), ("transformers", "5.17.0", "5.23.0")):
        assert ranges[name].contains(old)
        assert ranges[name].contains(new)


def test_every_import_is_a_declared_requirement():
    import ast
    import sys

    declared = {required.name.replace("-", "_") for required in map(Requirement, PROJECT["dependencies"])}
    declared |= {"posttrain", "yaml", "pydantic_core", "markupsafe"}  # PyYAML, and what pydantic and jinja2 stand on
    declared |= {"bitsandbytes"}  # of the extra `bits`: imported where it is asked for, with MissingExtra beside it
    elsewhere = ROOT / "posttrain" / "engine" / "programs"  # run by other Pythons, in environments of their own
    for path in (path for path in (ROOT / "posttrain").rglob("*.py") if elsewhere not in path.parents):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in (name.partition(".")[0] for name in names):
                assert name in declared or name in sys.stdlib_module_names, f"{path} imports {name}"


def test_continuous_integration_runs_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_installed_package_carries_its_data():
    """Recipes, templates and the lab's base lie inside the package folder, all of which goes into the wheel."""
    package = ROOT / "posttrain"
    assert list((package / "recipes").glob("*.yaml"))
    assert list((package / "lab" / "base").glob("*.safetensors"))
    assert list((package / "report").rglob("*.j2"))
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert not {"*.yaml", "*.j2", "*.css", "*.safetensors"} & set(ignored), "what git ignores does not reach the wheel"
