"""Being measured on what one was trained on is noticed through lineage."""

from pathlib import Path

import pytest

from posttrain.pipeline.run import run


@pytest.mark.slow
def test_a_model_measured_on_what_it_was_trained_on_is_told(
    text: str, rows: Path, other_rows: Path, tmp_path: Path
) -> None:
    assert "questions" not in " ".join(run(text, out=tmp_path / "runs").record.warnings)
    with other_rows.open("a") as file:
        file.write(rows.read_text().splitlines()[0] + "\n")
    warnings = run(text, out=tmp_path / "runs").record.warnings
    told = [warning for warning in warnings if "questions" in warning]
    assert [warning.split(" is ")[0] for warning in told] == ["tune", "second", "compress"]
    assert "on 1 of 4 questions that pipeline_fakes:Tune read to make it" in told[0]


def test_the_lineage_reaches_back_beyond_the_recipe(text: str, base: Path, rows: Path, tmp_path: Path) -> None:
    first = run(text, out=tmp_path / "runs")
    later = f"""
name: later
model: {first.models["compress"].path}
measure: [pipeline_fakes:Score: {{data: {rows}}}]
"""
    assert "base is measured with score on 6 of 6 questions" in run(later, out=tmp_path / "runs").record.warnings[0]


def test_what_any_parent_was_trained_on_is_told(base: Path, rows: Path, other_rows: Path, tmp_path: Path) -> None:
    recipe = f"""
name: blended
model: {base}
measure: [pipeline_fakes:Score: {{name: chat, data: {rows}}}]
stages:
  - pipeline_fakes:Tune: {{name: a, data: {other_rows}}}
  - pipeline_fakes:Tune: {{name: b, from: base, data: {rows}}}
  - pipeline_fakes:Tune: {{name: c, from: base, data: {other_rows}, strength: 0.3}}
  - pipeline_fakes:Blend: {{name: with_b, from: a, others: [c, b], base: base}}
  - pipeline_fakes:Blend: {{name: without_b, from: a, others: [c], base: base}}
"""
    warnings = run(recipe, out=tmp_path / "runs").record.warnings
    assert [warning.split(" is ")[0] for warning in warnings if "questions" in warning] == ["b", "with_b"]
