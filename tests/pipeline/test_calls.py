"""The calls from Python: train, measure, compare; and what importing the package costs."""

import subprocess
import sys
from pathlib import Path

import pipeline_fakes as fakes
import pytest

import posttrain as pt
from posttrain.pipeline.calls import entry, name_of
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import RecipeError, UsageError


@pytest.fixture
def tuned(base: Path, rows: Path, tmp_path: Path) -> Model:
    return pt.train(base, "pipeline_fakes:Tune", data=rows, strength=6e-4, out=tmp_path / "runs")


def test_training_makes_a_stored_model(tuned: Model, base: Path, rows: Path, tmp_path: Path) -> None:
    assert tuned.path.parent == tmp_path / "runs" / "store" and tuned.settings["strength"] == 6e-4
    fakes.RAN.clear()
    again = pt.train(base, fakes.Tune, data=[str(rows)], strength=6e-4, out=tmp_path / "runs")
    assert again.digest == tuned.digest and not fakes.RAN


def test_settings_may_be_given_as_an_object(tuned: Model, base: Path, rows: Path, tmp_path: Path) -> None:
    given = fakes.Tune(data=str(rows), strength=6e-4)  # type: ignore[arg-type]
    assert pt.train(base, given, out=tmp_path / "runs").digest == tuned.digest
    assert pt.train(tuned, given, out=tmp_path / "runs").digest != tuned.digest


def test_a_wrong_option_is_a_recipe_error(base: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Did you mean 'strength'\?"):
        pt.train(base, fakes.Tune, data=rows, strenght=1, out=tmp_path / "runs")


def test_two_models_are_compared_by_what_both_were_measured_with(
    tuned: Model, base: Path, other_rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    ran = pt.run({"model": str(base), "measure": ["pipeline_fakes:Weigh"]}, out=out)
    with pytest.raises(UsageError, match="was never measured"):
        pt.compare(ran.models["base"], tuned, out=out)
    found = pt.measure(tuned, [fakes.Weigh, fakes.Score(data=str(other_rows))], out=out)  # type: ignore[arg-type]
    assert set(found) == {"weigh", "score"}
    (change,) = pt.compare(ran.models["base"], tuned, out=out).changes
    assert (change.measure, change.metric) == ("weigh", "bytes")


def test_classes_have_names_in_recipes() -> None:
    assert name_of(pt.SFT) == "sft" and name_of(fakes.Tune) == "pipeline_fakes:Tune"
    assert entry(pt.SFT, {"data": Path("a.jsonl")}) == {"sft": {"data": "a.jsonl"}}
    assert entry({"size": None}) == {"size": {}}


def test_methods_are_attributes() -> None:
    assert pt.FewShot.__name__ == "FewShot"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        pt.Nothing  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import posttrain.schema", ("torch", "pydantic", "yaml")),
        ("import posttrain; posttrain.run, posttrain.train", ("torch", "transformers", "datasets", "jinja2")),
    ],
)
def test_importing_is_light(code: str, absent: tuple[str, ...]) -> None:
    code += "; import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(absent) & set(loaded)
