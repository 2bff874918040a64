"""Every recipe that ships runs end to end on the lab, cut down to a few rows and two steps a stage."""

from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain.pipeline.tree import read
from posttrain.recipes import shipped
from posttrain.schema.find import methods

FEW = 6
LEARNT = ("constitutional",)  # rows are made by what was learnt, and little makes none: tests/behaviour runs it whole
ELSEWHERE = ("external",)  # needs an environment beside this one: tests/methods/transforms/test_external.py runs it


def cut(recipe: dict[str, Any]) -> dict[str, Any]:
    """The same tree of stages with little to do."""
    stages = [_entry(entry) for entry in recipe["stages"]]
    return {**recipe, "stages": stages, "measure": [_entry(entry) for entry in recipe["measure"]]}


def _entry(entry: Any) -> Any:
    if entry == "speed":
        return {"speed": {"prompts": 1, "prompt_tokens": 8, "new_tokens": 2, "passes": 1}}
    if isinstance(entry, str):
        return entry
    ((method, options),) = entry.items()
    options = {name: value for name, value in options.items() if name not in ("gate", "until")}
    if method == "repeat":
        return {method: {**options, "stages": [_entry(inner) for inner in options["stages"]]}}
    if str(options.get("data", "")).startswith(("lab:", "{")) and method != "few_shot":
        data = options["data"]
        options["data"] = {**(data if isinstance(data, dict) else {"path": data}), "take": FEW}
    if methods()[method].kind == "objective":
        options |= {"steps": 2, "epochs": 1}
    if "sequences" in options:
        options |= {"sequences": 2, "length": 16} | ({"aside": 1} if "aside" in options else {})
    if "max_new_tokens" in options:
        options["max_new_tokens"] = 4
    return {method: options}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped() if name not in LEARNT + ELSEWHERE])
def test_it_runs_and_is_kept(name: str, tmp_path: Path) -> None:
    tree, problems = read(shipped()[name].read_text(encoding="utf-8"), name)
    assert not problems
    recipe = cut(tree.plain())
    first = pt.run(recipe, out=tmp_path)
    assert {stage.state for stage in first.record.stages} == {"made"}
    assert all(model.findings for model in first.record.models)
    assert first.report.exists()
    again = pt.run(recipe, out=tmp_path)
    assert {stage.state for stage in again.record.stages} == {"kept"}
    assert again.folder == first.folder


def test_every_recipe_says_what_it_shows() -> None:
    for path in shipped().values():
        assert path.read_text(encoding="utf-8").startswith("# "), path
