"""Overrides change the tree before it is checked, and say what they changed."""

import pytest

from posttrain.pipeline.overrides import from_keywords
from posttrain.pipeline.plan import load
from posttrain.pipeline.reading import draft
from posttrain.schema.errors import RecipeError

TEXT = """
name: demo
model: some/model
measure: [{pipeline_fakes:Score: {name: chat, data: test.jsonl}}, pipeline_fakes:Weigh]
stages:
  - pipeline_fakes:Tune: {data: rows.jsonl, strength: 6e-4, gate: {chat.accuracy: {drop_at_most: 0.05}}}
  - pipeline_fakes:Compress
  - repeat: {times: 2, stages: [pipeline_fakes:Compress: {name: again, from: base}]}
"""


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("tune.strength=1e-4", "tune.strength 0.0006 -> 0.0001"),
        ("stages.tune.strength=1", "stages.tune.strength 0.0006 -> 1"),
        ("stages.0.strength=1", "stages.0.strength 0.0006 -> 1"),
        ("compress.bits=3", "compress.bits default -> 3"),
        ("again.bits=2", "again.bits default -> 2"),
        ("repeat.times=3", "repeat.times 2 -> 3"),
        ("model=lab", "model some/model -> lab"),
        ("seed=7", "seed default -> 7"),
        ("chat.value=0.5", "chat.value default -> 0.5"),
        ("measure.0.value=0.5", "measure.0.value default -> 0.5"),
        ("tune.gate.chat.accuracy.drop_at_most=0.1", "tune.gate.chat.accuracy.drop_at_most 0.05 -> 0.1"),
        ("compress.gate.chat.accuracy.at_least=0.1", "compress.gate.chat.accuracy.at_least default -> 0.1"),
        ("tune.gate=null", "tune.gate {chat.accuracy: {drop_at_most: 0.05}} -> null"),
    ],
)
def test_an_override_is_applied_and_told(override: str, change: str) -> None:
    assert load(TEXT, "demo.yaml", [override]).recipe.changes == (change,)


def test_the_value_arrives() -> None:
    plan = load(TEXT, "demo.yaml", ["tune.strength=1e-4", "again.bits=2", "repeat.times=1"])
    options = {step.name: step.stage.model_dump() for step in plan.steps}
    assert options["tune"]["strength"] == 1e-4
    assert options["again@1"] == {"bits": 2} and "again@2" not in options


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.strenght=1", "override tune.strenght=1: tune: there is no option 'strenght'. Did you mean 'strength'?"),
        ("tuna.strength=1", "there is no stage, measure or key 'tuna' in the recipe. Did you mean 'tune'?"),
        ("stages.7.bits=1", "there is no stage, measure or key '7'"),
        ("tune.data.take=3", "tune.data is rows.jsonl, which has no 'take' inside. Set it as a whole"),
        ("tune.strength", "an override is written `path=value`"),
        ("=3", "an override is written `path=value`"),
        ("tune.strength=[", "this is not YAML"),
        ("tune.strength=-1", "override tune.strength=-1: tune: strength: -1 does not fit"),
    ],
)
def test_a_wrong_override_says_so(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(TEXT, "demo.yaml", [override])
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


def test_the_text_that_is_stored_gives_the_same_recipe() -> None:
    changed, _ = draft(TEXT, "demo.yaml", ["tune.strength=1e-4", "compress.bits=3"])
    again, wrong = draft(changed.text, "recipe.yaml")
    assert not wrong and again.digest == changed.digest
    assert changed.text.startswith("# demo.yaml, changed: tune.strength 0.0006 -> 0.0001; ")


def test_an_override_that_changes_nothing_is_the_same_recipe() -> None:
    assert draft(TEXT, "demo.yaml", ["tune.strength=6e-4"])[0].digest == draft(TEXT, "demo.yaml")[0].digest


def test_python_values_become_overrides() -> None:
    given = from_keywords({"tune.strength": 1e-4, "tune.fail": "yes"})
    assert load(TEXT, "demo.yaml", given).steps[0].stage.model_dump()["fail"] == "yes"
