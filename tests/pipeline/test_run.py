"""Running: what is kept and made, in which order, and what stays behind however a run ends."""

from pathlib import Path

import pytest
from pipeline_fakes import ran

from posttrain.pipeline.record import read_run
from posttrain.pipeline.run import preview, run
from posttrain.schema.errors import PosttrainError, RecipeError, UsageError

ALL = ["score", "weigh", "tune", "score", "weigh", "write", "tune", "score", "weigh", "compress", "score"]


def test_a_run_makes_measures_and_reports(text: str, tmp_path: Path) -> None:
    result = run(text, out=tmp_path / "runs")
    assert ran() == ALL
    assert result.name == "demo-1" and not result.gates_failed
    assert list(result.models) == ["base", "tune", "second", "compress"]
    assert sorted(path.name for path in result.folder.iterdir() if path.name != ".lock") == [
        "events.jsonl", "plan.json", "recipe.yaml", "report.html", "report.md",
    ]  # fmt: skip
    record = result.record
    assert record == read_run(result.folder)
    assert [stage.state for stage in record.stages] == ["made"] * 4
    assert [stage.model for stage in record.stages] == ["tune", None, "second", "compress"]
    assert record.model("compress").form == "gptq" and list(record.model("compress").findings) == ["chat"]
    assert record.model("base").findings["chat"].samples[0].id == "1"
    assert [(point.step, point.loss) for point in record.stages[0].curve] == [(1, 1.0), (2, 0.5), (3, 0.333333)]
    assert record.stages[0].facts == {"n_rows": 6}
    assert not record.warnings[1:] and "compress is not measured with weigh" in record.warnings[0]


def test_a_second_run_keeps_everything_in_the_same_folder(text: str, tmp_path: Path) -> None:
    first = run(text, out=tmp_path / "runs")
    ran()
    again = run("# a comment\n" + text, out=tmp_path / "runs")
    assert ran() == []
    assert again.folder == first.folder
    assert [stage.state for stage in again.record.stages] == ["kept"] * 4
    assert again.record.stages[0].curve == first.record.stages[0].curve
    assert again.record.stages[0].seconds == first.record.stages[0].seconds
    assert [m.digest for m in again.record.models] == [m.digest for m in first.record.models]
    assert [m.findings for m in again.record.models] == [m.findings for m in first.record.models]


@pytest.mark.slow
def test_a_changed_option_makes_only_what_follows(text: str, tmp_path: Path) -> None:
    first = run(text, out=tmp_path / "runs")
    ran()
    second = run(text, ["second.strength=0.5"], out=tmp_path / "runs")
    assert ran() == ["tune", "score", "weigh"]
    assert second.name == "demo-2"
    assert [stage.state for stage in second.record.stages] == ["kept", "kept", "made", "kept"]
    assert second.record.stages[0].curve == first.record.stages[0].curve  # told by the run that made it


def test_a_changed_first_stage_makes_all_that_follows(text: str, tmp_path: Path) -> None:
    run(text, out=tmp_path / "runs")
    ran()
    run(text, ["tune.strength=0.5"], out=tmp_path / "runs")
    assert ran() == ALL[2:]


def test_a_cosmetic_option_changes_no_key(text: str, tmp_path: Path) -> None:
    run(text, out=tmp_path / "runs")
    ran()
    assert run(text, ["tune.log_every=7"], out=tmp_path / "runs").name == "demo-2"
    assert ran() == []


@pytest.mark.slow
def test_a_changed_file_changes_what_read_it(text: str, rows: Path, tmp_path: Path) -> None:
    run(text, out=tmp_path / "runs")
    ran()
    rows.write_text(rows.read_text() + '{"prompt": "And 9?", "answer": "9"}\n')
    run(text, out=tmp_path / "runs")
    assert ran() == ALL[2:]


@pytest.mark.slow
def test_a_seed_is_part_of_every_key(text: str, tmp_path: Path) -> None:
    run(text, out=tmp_path / "runs")
    ran()
    run(text, ["seed=1"], out=tmp_path / "runs")
    assert ran() == ALL


@pytest.mark.slow
def test_what_damage_was_done_is_made_again(text: str, tmp_path: Path) -> None:
    first = run(text, out=tmp_path / "runs")
    ran()
    (first.models["tune"].path / "model.safetensors").write_text("other bytes")
    again = run(text, out=tmp_path / "runs")
    assert ran() == ["tune"]  # the same bytes come out, so what followed is still right
    assert any("is damaged" in warning for warning in again.record.warnings)
    assert again.models["tune"].digest == first.models["tune"].digest


def test_until_ends_after_a_stage(text: str, tmp_path: Path) -> None:
    result = run(text, out=tmp_path / "runs", until="tune")
    assert ran() == ALL[:5]
    assert [stage.state for stage in result.record.stages] == ["made", "not reached", "not reached", "not reached"]
    with pytest.raises(UsageError, match=r"Did you mean 'tune'\?"):
        run(text, out=tmp_path / "runs", until="tuna")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gate", "passes"),
    [
        ("chat.accuracy: {at_least: 0}", True),
        ("chat.accuracy: {at_least: 1.1}", False),
        ("chat.accuracy: {at_most: -1}", False),
        ("weigh.bytes: {drop_at_most: 2}", False),
        ("weigh.bytes: {drop_at_most: 3}", True),
        ("weigh.bytes: {rise_at_most: -4}", False),
        ("weigh.bytes: {rise_at_most: 0}", True),
    ],
)
def test_gates(text: str, tmp_path: Path, gate: str, passes: bool) -> None:
    result = run(text, [f"tune.gate={{{gate}}}"], out=tmp_path / "runs")
    assert result.gates_failed is not passes
    assert ran() == (ALL if passes else ALL[:5])
    (found,) = result.record.stages[0].gates
    assert found.passed is passes
    assert (result.folder / "report.html").is_file()
    assert '{"event": "run_finished"' in (result.folder / "events.jsonl").read_text().splitlines()[-1]
    run(text, [f"tune.gate={{{gate}}}"], out=tmp_path / "runs")
    assert ran() == []


def test_the_drop_is_taken_from_the_source(text: str, tmp_path: Path) -> None:
    result = run(text, ["tune.gate={weigh.bytes: {drop_at_most: 3}}"], out=tmp_path / "runs")
    (gate,) = result.record.stages[0].gates
    before, after = (result.record.model(m).findings["weigh"].metrics["bytes"].value for m in ("base", "tune"))
    assert gate.value == before - after and gate.rule == "weigh.bytes drop_at_most 3"


def test_a_gate_on_no_metric_is_found_before_anything_is_trained(text: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'chat' finds no 'acuracy'. Did you mean 'accuracy'\?"):
        run(text, ["second.gate={chat.acuracy: {at_least: 1}}"], out=tmp_path / "runs")
    assert ran() == ["score", "weigh"]


def test_nothing_is_written_when_inputs_are_missing(text: str, rows: Path, other_rows: Path, tmp_path: Path) -> None:
    rows.unlink()
    other_rows.unlink()
    with pytest.raises(RecipeError) as caught:
        run(text, out=tmp_path / "runs")
    assert [problem.line for problem in caught.value.problems] == [5, 8, 9]
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_rows_of_the_wrong_shape_are_found_before_anything_is_written(text: str, rows: Path, tmp_path: Path) -> None:
    rows.write_text('{"one": 1, "two": 2}\n')
    with pytest.raises(RecipeError, match=r"recipe:8: .*cannot be read as Prompt"):
        run(text, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists() and not ran()


def test_the_preview_knows_what_would_be_kept(text: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert set(preview(text, out=out)[1].values()) == {"made"}
    assert not out.exists()
    run(text, out=out)
    assert set(preview(text, out=out)[1].values()) == {"kept"}
    states = preview(text, ["second.strength=9"], out=out)[1]
    assert [name for name, state in states.items() if state == "made"] == [
        "second",
        "chat of second",
        "weigh of second",
    ]


def test_an_empty_suite_and_an_empty_list_of_stages(base: Path, tmp_path: Path) -> None:
    assert run(f"model: {base}\nmeasure: [pipeline_fakes:Weigh]\n", out=tmp_path / "runs").record.stages == ()
    assert (
        run(f"model: {base}\nstages: [pipeline_fakes:Compress]\n", out=tmp_path / "runs").models["compress"].form
        == "gptq"
    )


def test_a_base_of_another_form_is_planned_as_what_it_is(text: str, tmp_path: Path) -> None:
    small = run(text, out=tmp_path / "runs").models["compress"]
    with pytest.raises(RecipeError, match="'base' holds gptq ones"):
        run(text, [f"model={small.path}"], out=tmp_path / "runs")


# Measures that wait for a stage


def test_a_stage_that_the_base_alone_needs_is_no_problem(base: Path, tmp_path: Path) -> None:
    """An adapter begins with `merge`, which takes no dense model."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
    (folder / "adapter_model.safetensors").write_bytes(b"few weights")
    found = preview({"name": "demo", "model": str(folder), "stages": ["merge"]}, out=tmp_path / "runs")
    assert [step.form for step in found.plan.steps] == ["dense"]
    with pytest.raises(RecipeError, match=r"'merge' takes adapter weights, and 'base' holds dense ones"):
        preview({"name": "demo", "model": str(base), "stages": ["merge"]}, out=tmp_path / "runs")


@pytest.fixture
def late(base: Path, rows: Path) -> str:
    return f"""
name: late
model: {base}
measure:
  - pipeline_fakes:Weigh
  - pipeline_fakes:Against: {{against: second}}
stages:
  - pipeline_fakes:Tune: {{data: {rows}}}
  - pipeline_fakes:Tune: {{name: second, data: {rows}, strength: 0.2}}
  - pipeline_fakes:Tune: {{name: third, data: {rows}, strength: 0.3, gate: {{against.far: {{rise_at_most: 1}}}}}}
"""


FAR = ["against another"]


def test_earlier_models_are_measured_once_what_a_measure_names_is_made(late: str, tmp_path: Path) -> None:
    result = run(late, out=tmp_path / "runs")
    assert ran() == [
        "weigh", "tune", "weigh", "tune", *FAR, *FAR, "weigh", "against itself", "tune", "weigh", *FAR,
    ]  # fmt: skip
    found = {model.name: model.findings["against"] for model in result.record.models}
    assert [f.metrics["far"].value for f in found.values()] == [1, 1, 0, 1]
    assert {f.notes["against"] for f in found.values()} == {result.models["second"].digest}
    assert result.record.stages[2].gates[0].value == 1.0  # from 0, of second


@pytest.mark.slow
def test_what_waited_is_kept_and_only_what_a_change_reaches_is_measured_again(late: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    first = run(late, out=out)
    ran()
    again = run(late, out=out)
    assert ran() == [] and again.folder == first.folder
    assert [m.findings for m in again.record.models] == [m.findings for m in first.record.models]
    assert set(preview(late, out=out).states.values()) == {"kept"}
    changed = preview(late, ["third.strength=9"], out=out).states
    assert [name for name, state in changed.items() if state == "made"] == [
        "third",
        "weigh of third",
        "against of third",
    ]
    changed = preview(late, ["second.strength=9"], out=out).states
    assert {name for name, state in changed.items() if state == "kept"} == {"tune", "weigh of base", "weigh of tune"}
    run(late, ["second.strength=9"], out=out)
    assert ran() == ["tune", *FAR, *FAR, "weigh", "against itself", "tune", "weigh", *FAR]


def test_until_leaves_out_what_still_waits(late: str, tmp_path: Path) -> None:
    result = run(late, out=tmp_path / "runs", until="tune")
    assert ran() == ["weigh", "tune", "weigh"]
    assert [list(model.findings) for model in result.record.models] == [["weigh"], ["weigh"]]
    run(late, out=tmp_path / "runs", until="second")
    assert ran() == ["tune", *FAR, *FAR, "weigh", "against itself"]


def test_flags_of_a_measure_are_alerts_in_every_run_of_the_model(late: str, tmp_path: Path) -> None:
    for _ in range(2):
        record = run(late, out=tmp_path / "runs").record
        alerts = {stage.name: stage.alerts for stage in record.stages}
        assert alerts == {"tune": ("against: it went far",), "second": (), "third": ("against: it went far",)}
        assert [warning for warning in record.warnings if "far" in warning] == ["base: against: it went far"]


def test_a_metric_that_there_is_not_is_told_after_the_stage_it_waits_for(late: str, tmp_path: Path) -> None:
    with pytest.raises(PosttrainError, match=r"The gate after third: 'against' finds no 'fra'\. Did you mean 'far'\?"):
        run(late.replace("against.far", "against.fra"), out=tmp_path / "runs")


def test_each_of_several_models_belongs_to_the_key(base: Path, rows: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    (outside / "model.safetensors").write_bytes(b"others")
    recipe = f"""
name: blended
model: {base}
stages:
  - pipeline_fakes:Tune: {{name: a, data: {rows}}}
  - pipeline_fakes:Tune: {{name: b, from: base, data: {rows}, strength: 0.2}}
  - pipeline_fakes:Blend: {{from: a, others: [b, {outside}], base: base}}
"""
    first = run(recipe, out=tmp_path / "runs")
    assert ran() == ["tune", "tune", "blend 3"]
    assert len(first.models["blend"].inputs["others"].split("+")) == 2
    run(recipe, ["b.strength=0.3"], out=tmp_path / "runs")
    assert ran() == ["tune", "blend 3"]
    run(recipe, [f"blend.others=[{outside}, b]"], out=tmp_path / "runs")
    assert ran() == ["blend 3"]
    (outside / "model.safetensors").write_bytes(b"others, changed")
    run(recipe, out=tmp_path / "runs")
    assert ran() == ["blend 3"]


def test_models_from_outside_are_looked_for_before_anything_runs(base: Path, rows: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    (packed / "model.safetensors").write_bytes(b"few bits")
    recipe = f"""model: {base}
stages:
  - pipeline_fakes:Tune: {{data: {rows}}}
  - pipeline_fakes:Blend: {{others: [./nowhere, {packed}]}}
"""
    with pytest.raises(RecipeError) as caught:
        run(recipe, out=tmp_path / "runs")
    assert "recipe:4: There is no folder './nowhere'" in str(caught.value)
    assert f"recipe:4: '{packed}' holds gptq weights, and dense or adapter ones are wanted" in str(caught.value)
    assert ran() == []
