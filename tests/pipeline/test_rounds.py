"""Rounds that end once their gates hold: what runs, what stands in for what does not, and what a failure says."""

from pathlib import Path

import pytest
from pipeline_fakes import ran

from posttrain.pipeline.recipe import Round
from posttrain.pipeline.run import Run, run
from posttrain.schema.errors import RecipeError

RECIPE = """
name: rounds
model: MODEL
measure: [pipeline_fakes:Score: {name: chat, data: TEST}]
stages:
  - repeat:
      times: 3
      until: gates
      stages:
        - pipeline_fakes:Write: {data: ROWS}
        - pipeline_fakes:Tune: {data: write, gate: {chat.accuracy: {GATE}}}
  - pipeline_fakes:Tune: {name: after, data: ROWS}
"""


@pytest.fixture
def recipe(base: Path, rows: Path, other_rows: Path) -> str:
    return RECIPE.replace("MODEL", str(base)).replace("ROWS", str(rows)).replace("TEST", str(other_rows))


def gated(recipe: str, gate: str, out: Path) -> Run:
    ran()
    return run(recipe.replace("{GATE}", f"{{{gate}}}"), out=out)


def states(found: Run) -> dict[str, str]:
    return {stage.name: stage.state for stage in found.record.stages}


def accuracy(found: Run, model: str) -> float:
    return found.record.model(model).findings["chat"].metrics["accuracy"].value


def test_the_first_round_is_enough(recipe: str, tmp_path: Path) -> None:
    found = gated(recipe, "at_least: -1", tmp_path)
    assert ran() == ["score", "write", "tune", "score", "tune", "score"]
    assert list(states(found).values()) == ["made", "made", *["not needed"] * 4, "made"]
    assert found.models["tune@3"] == found.models["tune@1"]
    assert found.models["after"].inputs["model"] == found.models["tune@1"].digest
    assert [model.name for model in found.record.models] == ["base", "tune@1", "after"]
    assert [stage.seconds for stage in found.record.stages if stage.state == "not needed"] == [0] * 4
    assert not found.gates_failed and "FAILED" not in (found.folder / "report.md").read_text(encoding="utf-8")


def test_a_measure_that_waits_for_the_last_round_is_taken_when_another_stands_in(recipe: str, tmp_path: Path) -> None:
    waits = recipe.replace("measure: [", "measure: [pipeline_fakes:Against: {against: tune}, ")
    found = gated(waits, "at_least: -1", tmp_path)
    far = {model.name: model.findings["against"].metrics["far"].value for model in found.record.models}
    assert far == {"base": 1.0, "tune@1": 0.0, "after": 1.0}


def test_the_last_round_must_hold(recipe: str, tmp_path: Path) -> None:
    found = gated(recipe, "at_least: 2", tmp_path)
    assert found.gates_failed and ran() == ["score", *["write", "tune", "score"] * 3]
    gates = [gate for stage in found.record.stages for gate in stage.gates]
    assert [(gate.passed, gate.goes_on) for gate in gates] == [(False, True), (False, True), (False, False)]
    assert states(found)["after"] == "not reached"


def test_a_later_round_is_enough(recipe: str, tmp_path: Path) -> None:
    whole = gated(recipe, "at_least: 2", tmp_path)
    first, second = accuracy(whole, "tune@1"), accuracy(whole, "tune@2")
    assert first != second
    gate = f"{'at_least' if second > first else 'at_most'}: {(first + second) / 2}"
    found = gated(recipe, gate, tmp_path)
    assert ran() == ["tune", "score"]  # what is after them; the rounds are kept
    assert [states(found)[f"tune@{n}"] for n in (1, 2, 3)] == ["kept", "kept", "not needed"]
    assert found.models["after"].inputs["model"] == found.models["tune@2"].digest
    again = gated(recipe, gate, tmp_path)
    assert ran() == [] and states(again)["tune@3"] == "not needed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("until: gates", "until: tired"), "Write `until: gates`, or leave it out."),
        ((", gate: {chat.accuracy: {GATE}}", ""), "`until: gates` needs a stage with a `gate:`"),
        (("until: gates", "untill: gates"), "Did you mean 'until'?"),
    ],
)
def test_what_cannot_be_waited_for(recipe: str, tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        gated(recipe.replace(*change), "at_least: 0", tmp_path)
    assert message in str(caught.value)


def test_a_repetition_within_another_that_may_end_is_refused(recipe: str, tmp_path: Path) -> None:
    inner = recipe[recipe.index("  - repeat:") : recipe.index("  - pipeline_fakes:Tune: {name: after")]
    deeper = "\n".join(f"        {line}" for line in inner.splitlines())
    gated_too = "          - pipeline_fakes:Tune: {name: late, data: ROWS, gate: {chat.accuracy: {at_least: 0}}}"
    outer = f"  - repeat:\n      times: 2\n      until: gates\n      stages:\n{deeper}\n{gated_too}\n"
    with pytest.raises(RecipeError) as caught:
        gated(recipe.replace(inner, outer), "at_least: 0", tmp_path)
    assert "stands within another one" in str(caught.value)


def test_names_in_other_rounds() -> None:
    assert Round("x", "", 3, 4).name_in("tune@3", 1) == "tune@1"
    assert Round("x", "@2", 3, 4).name_in("tune@2@3@7", 1) == "tune@2@1@7"
