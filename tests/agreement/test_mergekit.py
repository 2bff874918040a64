"""mergekit merges the same models to the same weights, by each formula that draws nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posttrain.engine.job import Job
from posttrain.engine.method import stage_class
from posttrain.engine.store import Store
from posttrain.schema.artifacts import Model
from tests import tiny

merging = pytest.importorskip("mergekit.merge", reason="mergekit is not installed: pip install mergekit")
config = pytest.importorskip("mergekit.config")
pytestmark = pytest.mark.slow

WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what theirs is told of every model, and ours
    "linear": ({"weight": [1.0, 3.0]}, {"weights": [1, 3]}),
    "slerp": ({}, {"weights": [0.7, 0.3]}),
    "task_arithmetic": ({"weight": [1.0, 0.5]}, {"weights": [1, 0.5], "base": "base"}),
    "ties": ({"weight": [1.0, 2.0], "density": [0.5, 0.5]}, {"weights": [1, 2], "density": 0.5, "base": "base"}),
}


def models(folder: Path) -> dict[str, str]:
    """Two models and the base of both, in folders."""
    made, draw = tiny.model(tie_word_embeddings=True), torch.Generator().manual_seed(0)
    start = {name: x.clone() for name, x in made.state_dict().items()}
    for name in ("base", "a", "b"):
        made.load_state_dict(start)
        if name != "base":
            with torch.no_grad():
                for x in made.parameters():
                    x.add_(0.02 * torch.randn(x.shape, generator=draw) ** 3)
        made.save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("a", "b", "base")}


def theirs(how: str, said: dict[str, list[float]], at: dict[str, str], out: Path) -> dict[str, torch.Tensor]:
    named = [
        {"model": at[name], "parameters": {option: values[n] for option, values in said.items()}}
        for n, name in enumerate(("a", "b"))
    ]
    recipe: dict[str, Any] = {"merge_method": how, "models": named, "dtype": "float32"}
    if how == "slerp":
        recipe |= {"base_model": at["a"], "parameters": {"t": 0.3}}
    elif how != "linear":
        recipe["base_model"] = at["base"]
    merging.run_merge(config.MergeConfiguration.model_validate(recipe), str(out), merging.MergeOptions())
    return {name: x for path in out.glob("*.safetensors") for name, x in load_file(path).items()}


def ours(how: str, said: dict[str, Any], at: dict[str, str], out: Path) -> dict[str, torch.Tensor]:
    store = Store(out / "store")
    found: dict[str, Model] = {name: store.model(path) for name, path in at.items()}
    inputs = {"base": found["base"]} if "base" in said else {}
    stage = stage_class("merge").model_validate({"how": how, "others": ["b"], **said})
    for name in ("made", "scratch"):
        (out / name).mkdir()
    stage.run(Job(out / "made", out / "scratch"), model=found["a"], others=(found["b"],), **inputs)
    return load_file(out / "made" / "model.safetensors")


@pytest.mark.parametrize("how", WAYS)
def test_both_merge_to_the_same_weights(how: str, tmp_path: Path) -> None:
    at = models(tmp_path)
    told, said = WAYS[how]
    other, own = theirs(how, told, at, tmp_path / "theirs"), ours(how, said, at, tmp_path)
    assert own.keys() <= other.keys()
    for name, x in own.items():
        apart = (x - other[name].float()).abs() > 1e-6
        # of an odd number of entries one side keeps the half that is rounded up, the other the one that is rounded down
        assert apart.sum() <= (1 if how == "ties" else 0), name
