"""A plan is wired and checked before anything is loaded."""

import pytest

from posttrain.pipeline import listing
from posttrain.pipeline.plan import Plan, check, load, plan
from posttrain.pipeline.reading import draft
from posttrain.schema.errors import RecipeError

SUITE = "measure: [{pipeline_fakes:Score: {name: chat, data: test.jsonl}}, pipeline_fakes:Weigh]"


def planned(stages: str, *, suite: str = SUITE) -> Plan:
    return load(f"name: demo\nmodel: some/model\n{suite}\nstages:\n{stages}", "demo.yaml")


def refused(stages: str) -> str:
    with pytest.raises(RecipeError) as caught:
        planned(stages)
    return str(caught.value)


def sources(found: Plan) -> dict[str, str]:
    return {step.name: step.source for step in found.steps}


def test_a_stage_takes_the_last_model_and_generators_do_not_move_it() -> None:
    found = planned("""
  - pipeline_fakes:Tune: {data: rows.jsonl}
  - pipeline_fakes:Write: {data: rows.jsonl}
  - pipeline_fakes:Tune: {name: second, data: [write, {path: rows.jsonl, take: 3}]}
  - pipeline_fakes:Compress: {from: tune}
  - pipeline_fakes:Tune: {name: third, from: base, data: rows.jsonl}
""")
    assert sources(found) == {"tune": "base", "write": "tune", "second": "tune", "compress": "tune", "third": "base"}
    data = found.steps[2].inputs["data"]
    assert [(source.name, source.step) for source in data] == [("write", "write"), ("rows.jsonl", None)]
    assert data[1].rows is not None and data[1].rows.take == 3
    assert [source.name for _, source in found.outside()] == ["test.jsonl", *["rows.jsonl"] * 4]


def test_forms_are_checked_and_the_cure_is_named() -> None:
    message = refused("""
  - pipeline_fakes:Tune: {data: rows.jsonl}
  - pipeline_fakes:Compress
  - pipeline_fakes:Tune: {name: second, data: rows.jsonl}
""")
    assert message == "demo.yaml:8: 'second' takes dense weights, and 'compress' holds gptq ones. Write `from: tune`."


def test_an_adapter_is_cured_by_merging_it() -> None:
    assert "Insert `- merge` before it, or write `from: base`." in refused("""
  - pipeline_fakes:Adapt: {data: rows.jsonl}
  - pipeline_fakes:Compress
""")
    found = planned("""
  - pipeline_fakes:Adapt: {data: rows.jsonl}
  - pipeline_fakes:Fold
  - pipeline_fakes:Compress
""")
    assert [step.form for step in found.steps] == ["adapter", "dense", "gptq"]


def test_the_form_of_the_base_counts() -> None:
    recipe, _ = draft("model: m\nstages: [pipeline_fakes:Compress]")
    assert plan(recipe).steps[0].form == "gptq"
    with pytest.raises(RecipeError, match=r"'base' holds gguf ones. Begin with a model of that form"):
        plan(recipe, "gguf")


TWO = "  - pipeline_fakes:Tune: {name: a, data: rows.jsonl}\n  - pipeline_fakes:Tune: {name: b, from: base, data: rows.jsonl}\n"


def test_a_setting_names_several_models() -> None:
    found = planned(TWO + "  - pipeline_fakes:Blend: {from: a, others: [b, ./folder], base: base}").steps[-1]
    assert [(each.name, each.step) for each in found.inputs["others"]] == [("b", "b"), ("./folder", None)]
    assert found.waits_for == ("a", "b", "base")
    alone = planned(TWO + "  - pipeline_fakes:Blend: {from: a, others: b}").steps[-1]
    assert [each.name for each in alone.inputs["others"]] == ["b"] and "base" not in alone.inputs


def test_each_of_several_models_must_be_of_a_fitting_form() -> None:
    squeezed = "  - pipeline_fakes:Compress: {from: b}\n"
    assert refused(TWO + squeezed + "  - pipeline_fakes:Blend: {from: a, others: [b, compress]}") == (
        "demo.yaml:8: blend: 'compress' holds gptq weights, and dense or adapter ones are wanted. Write `b`."
    )
    assert "blend: 'write' makes a dataset, and a model is wanted" in refused(
        TWO + "  - pipeline_fakes:Write: {data: x}\n  - pipeline_fakes:Blend: {from: a, others: [write]}"
    )


def test_a_merge_without_how_takes_no_dense_model_and_says_what_would() -> None:
    assert refused(TWO + "  - merge") == (
        "demo.yaml:7: 'merge' takes adapter weights, and 'b' holds dense ones. Give it other settings, with which it takes "
        "dense ones."
    )


def test_rounds_are_unrolled_and_names_mean_this_round() -> None:
    found = planned("""
  - repeat:
      times: 2
      stages:
        - pipeline_fakes:Write: {data: rows.jsonl}
        - pipeline_fakes:Tune: {data: write}
  - pipeline_fakes:Compress: {from: tune}
  - pipeline_fakes:Tune: {name: last, from: base, data: write}
""")
    assert sources(found) == {
        "write@1": "base", "tune@1": "base", "write@2": "tune@1", "tune@2": "tune@1", "compress": "tune@2", "last": "base",
    }  # fmt: skip
    assert [step.inputs["data"][0].step for step in found.steps if step.name.startswith(("tune", "last"))] == [
        "write@1", "write@2", "write@2",
    ]  # fmt: skip


def test_what_follows_a_reward_model_goes_on_from_the_model_before_it() -> None:
    found = planned("""
  - pipeline_fakes:Tune: {data: rows.jsonl}
  - reward: {data: rows.jsonl}
  - repeat: {times: 2, stages: [label: {data: rows.jsonl, reward: {model: reward}}, dpo: {data: label}]}
""")
    assert sources(found) == {
        "tune": "base", "reward": "tune", "label@1": "tune", "dpo@1": "tune", "label@2": "dpo@1", "dpo@2": "dpo@1",
    }  # fmt: skip
    judged = [step.inputs["reward.model"][0].step for step in found.steps if step.name.startswith("label")]
    assert judged == ["reward", "reward"]


def test_rounds_within_rounds() -> None:
    found = planned("""
  - repeat:
      times: 2
      stages:
        - pipeline_fakes:Write: {data: rows.jsonl}
        - repeat: {times: 2, stages: [pipeline_fakes:Tune: {data: write}]}
""")
    wired = {step.name: step.inputs["data"][0].step for step in found.steps if step.makes_model}
    assert wired == {"tune@1@1": "write@1", "tune@1@2": "write@1", "tune@2@1": "write@2", "tune@2@2": "write@2"}


def test_too_many_rounds_are_refused() -> None:
    assert "more than 1000 steps" in refused(
        "  - repeat: {times: 999999999, stages: [pipeline_fakes:Compress: {from: base}]}\n"
    )


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("  - pipeline_fakes:Compress: {from: bass}", "no earlier stage is called 'bass'. Did you mean 'base'?"),
        ("  - pipeline_fakes:Compress: {from: compress}", "no earlier stage is called 'compress'"),
        (
            "  - pipeline_fakes:Tune: {data: write}\n  - pipeline_fakes:Write: {data: x.jsonl}",
            "'write' is made later than it is read",
        ),
        (
            "  - pipeline_fakes:Compress\n  - pipeline_fakes:Write: {from: base, data: compress}",
            "'compress' makes a model, and rows is wanted",
        ),
        (
            "  - pipeline_fakes:Write: {data: x}\n  - pipeline_fakes:Compress: {from: write}",
            "makes data, and `from` wants a model",
        ),
        (
            "  - pipeline_fakes:Write: {data: x, gate: {chat.accuracy: {at_least: 1}}}",
            "makes data, which no measure judges",
        ),
        ("  - pipeline_fakes:Compress: {gate: {weigh.bytes: {at_most: 1}}}", "'compress' is not measured with 'weigh'"),
        (
            "  - pipeline_fakes:Compress: {measure: false, gate: {chat.accuracy: {at_least: 1}}}",
            "'compress' is not measured with 'chat'",
        ),
    ],
)
def test_wrong_wires(stages: str, message: str) -> None:
    assert message in refused(stages)


LATE = """measure:
  - pipeline_fakes:Weigh
  - pipeline_fakes:Against: {name: from_tune, against: tune}
  - pipeline_fakes:Score: {name: own, data: write}
"""
STAGES = """
  - pipeline_fakes:Tune: {data: rows.jsonl}
  - pipeline_fakes:Tune: {name: second, data: rows.jsonl}
  - pipeline_fakes:Write: {data: rows.jsonl}
  - pipeline_fakes:Compress
"""


def due(found: Plan) -> dict[str, list[str]]:
    names = ["base", *(step.name for step in found.steps)]
    return {at: [f"{measure.name} of {model}" for model, measure in found.due(at)] for at in names}


def test_a_measure_that_names_a_stage_is_taken_of_every_model_once_that_is_made() -> None:
    assert due(planned(STAGES, suite=LATE)) == {
        "base": ["weigh of base"],
        "tune": ["from_tune of base", "weigh of tune", "from_tune of tune"],
        "second": ["weigh of second", "from_tune of second"],
        "write": ["own of base", "own of tune", "own of second"],
        "compress": ["from_tune of compress", "own of compress"],
    }


def test_a_measure_that_names_several_stages_waits_for_the_last() -> None:
    suite = "measure: [pipeline_fakes:Against: {against: tune, data: [write, x.jsonl]}]"
    found = planned(STAGES, suite=suite)
    assert due(found)["write"] == ["against of base", "against of tune", "against of second"]
    assert found.measures[0].waits_for == ("tune", "write")
    assert listing.as_json(found)["measures"][0]["waits_for"] == ["tune", "write"]
    assert "against: taken of every model once there is tune and write" in listing.as_text(found)


def test_a_measure_may_name_the_base_a_file_and_the_last_round() -> None:
    rounds = "  - repeat: {times: 2, stages: [pipeline_fakes:Tune: {data: rows.jsonl}]}\n"
    suite = "measure: [pipeline_fakes:Against: {name: first, against: base}, pipeline_fakes:Against: {name: last, against: tune}]"
    assert due(planned(rounds, suite=suite)) == {
        "base": ["first of base"],
        "tune@1": ["first of tune@1"],
        "tune@2": ["last of base", "last of tune@1", "first of tune@2", "last of tune@2"],
    }
    (source,) = planned(rounds, suite=suite.replace("base", "./base")).measures[0].inputs["against"]
    assert (source.name, source.step) == ("./base", None)


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("pipeline_fakes:Against: {against: write}", "against: 'write' makes a dataset, and a model is wanted."),
        ("pipeline_fakes:Score: {data: compress}", "score: 'compress' makes a model, and rows is wanted."),
    ],
)
def test_a_measure_that_names_the_wrong_kind_of_stage(suite: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(STAGES, suite=f"measure: [{suite}]")
    assert message in str(caught.value)


def test_a_gate_on_what_is_not_measured_yet_is_refused() -> None:
    stages = """
  - pipeline_fakes:Tune: {data: rows.jsonl, gate: {own.accuracy: {at_least: 1}}}
  - pipeline_fakes:Write: {data: rows.jsonl}
  - pipeline_fakes:Tune: {name: second, data: rows.jsonl, gate: {own.accuracy: {drop_at_most: 1}, from_tune.far: {at_most: 1}}}
"""
    with pytest.raises(RecipeError) as caught:
        planned(stages, suite=LATE)
    assert str(caught.value) == (
        "demo.yaml:10: tune: 'own' reads 'write', which is made later. Move 'write' up, or the gate down."
    )


def test_a_gate_on_the_stage_that_the_measure_names_is_fine() -> None:
    """What a stage made is there when its own gate is looked at."""
    stages = "  - pipeline_fakes:Tune: {data: rows.jsonl, gate: {from_tune.far: {at_most: 0}}}\n"
    suite = "measure: [pipeline_fakes:Against: {name: from_tune, against: tune}]"
    assert [str(gate) for gate in planned(stages, suite=suite).steps[0].gates] == ["from_tune.far at_most 0"]


def test_a_gate_may_name_the_model_that_it_compares_with() -> None:
    stages = """
  - pipeline_fakes:Tune: {data: rows.jsonl}
  - pipeline_fakes:Tune: {name: second, data: rows.jsonl, gate: {chat.accuracy: {surely_drop_at_most: 0.1, against: AGAINST}}}
"""
    for name in ("base", "tune"):
        (gate,) = planned(stages.replace("AGAINST", name)).steps[1].gates
        assert str(gate) == f"chat.accuracy surely_drop_at_most 0.1 against {name}"
    for name, message in (
        ("tuna", "second: no model 'tuna' is made before it. Did you mean 'tune'?"),
        ("second", "second: no model 'second' is made before it."),
        ("3", "against: 3 is no name. Write the name of a stage, or `base`."),
        ("[tune]", "against: ['tune'] is no name. Write the name of a stage, or `base`."),
    ):
        with pytest.raises(RecipeError) as caught:
            planned(stages.replace("AGAINST", name))
        assert message in str(caught.value)


def test_a_gate_within_rounds_means_this_rounds_model() -> None:
    stages = """
  - repeat:
      times: 2
      stages:
        - pipeline_fakes:Tune: {data: rows.jsonl}
        - pipeline_fakes:Tune: {name: second, data: rows.jsonl, gate: {chat.accuracy: {drop_at_most: 0.1, against: tune}}}
"""
    gates = [gate for step in planned(stages).steps for gate in step.gates]
    assert [gate.against for gate in gates] == ["tune@1", "tune@2"]


def test_a_broken_stage_brings_no_false_alarms() -> None:
    message = refused("""
  - pipeline_fakes:Tune: {data: rows.jsonl, stength: 3}
  - pipeline_fakes:Compress: {from: tune, gate: {chat.accuracy: {drop_at_most: 0.1}}}
""")
    assert message.count("\n") == 0 and "Did you mean 'strength'?" in message


def test_every_model_gets_the_measures_that_can_load_it() -> None:
    found = planned(
        "  - pipeline_fakes:Compress\n  - pipeline_fakes:Write: {from: base, data: x}\n  - pipeline_fakes:Tune: {from: base, data: x, measure: false}\n"
    )
    assert found.suite == {"base": ("chat", "weigh"), "compress": ("chat",), "tune": ()}
    assert found.notes == ("compress is not measured with weigh: no measure of gptq weights",)


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ("{text.perplexity: {rise_at_most: 1}}", "rtn is held to text alone, which may hold while answers change"),
        ("{text.perplexity: {rise_at_most: 1}, size.bytes: {at_most: 9}}", "rtn is held to text and size alone"),
        ("{text.perplexity: {rise_at_most: 1}, near.kl: {at_most: 0.1}}", ""),
        ("{near.kl: {at_most: 0.1}}", ""),
    ],
)
def test_perplexity_alone_is_no_gate_for_a_smaller_model(gate: str, told: str) -> None:
    """What was trained may be held to it, what was rewritten ought to answer as before."""
    trained = "{text.perplexity: {rise_at_most: 1}}"
    found = load(f"""
model: lab
measure: [{{perplexity: {{name: text, data: x}}}}, size, {{fidelity: {{name: near, data: x, against: sft}}}}]
stages:
  - sft: {{data: x, gate: {trained}}}
  - rtn: {{gate: {gate}}}
""")
    assert [note[: len(told)] for note in found.notes] == ([told] if told else [])


def test_a_form_that_only_the_work_tells_is_measured_and_not_trained() -> None:
    stages = "stages: [{compress: {within: {kl: 1}, data: x, into: [compressed-tensors, gguf]}}%s]"
    text = "model: lab\nmeasure: [size, {benchmark: {data: x}}]\n"
    found = load(text + stages % "")
    assert found.steps[0].form == "compressed-tensors or gguf" and found.suite["compress"] == ("size", "benchmark")
    with pytest.raises(RecipeError, match=r"'compress' holds compressed-tensors or gguf ones\. Write `from: base`"):
        load(text + stages % ", {sft: {data: x}}")


def test_the_listing_says_what_goes_where() -> None:
    found = planned("  - pipeline_fakes:Tune: {data: rows.jsonl, gate: {chat.accuracy: {at_least: 0.5}}}\n")
    text = listing.as_text(found, {"tune": "made", "chat of base": "kept", "weigh of base": "made"})
    base, tune, gate = text.splitlines()
    assert base.split() == "base some/model measured: chat, weigh (1 of 2 kept)".split()
    assert tune.split()[:9] == "tune pipeline_fakes:Tune from base data rows.jsonl -> dense made".split()
    assert gate == "gate after tune: chat.accuracy at_least 0.5"
    shown = listing.as_json(found, {"tune": "made"})
    assert shown["steps"][0]["inputs"] == {"model": ["base"], "data": ["rows.jsonl"]}
    assert shown["steps"][0]["state"] == "made"


def test_problems_of_a_plan_come_with_those_of_its_recipe() -> None:
    recipe, wrong = draft("modle: x\nmodel: m\nstages: [pipeline_fakes:Compress: {from: bsae}]", "demo.yaml")
    assert len(wrong) == 1 and len(check(recipe)[1]) == 1
