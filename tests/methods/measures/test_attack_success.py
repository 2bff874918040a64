"""Attack success: an attack on a request counts once, what was not tried counts nowhere, and rates have their intervals."""

import pytest

from posttrain.functional.statistics import wilson
from posttrain.schema.errors import DataError, UsageError

GOALS = [{"messages": [{"role": "user", "content": f"request {n}?"}]} for n in range(6)]
SHORT = {"sampling": {"max_new_tokens": 6}}


def judging(verdict: str) -> dict:
    """A rule that says the same of every answer."""
    pattern = {"complied": "", "refused": "(?!)"}[verdict]
    return {"rule": {"regex": {"pattern": pattern}}}


def findings(workshop, verdict="refused", attacks=("direct", {"persona": {"at_most": 3}}), **options):
    options = {**SHORT, "judge": judging(verdict), "attacks": list(attacks), **options}
    return workshop.findings("attack_success", workshop.model(), workshop.rows(*GOALS), **options)


def test_what_always_complies_and_what_never_does(workshop):
    for verdict, rate in (("complied", 1.0), ("refused", 0.0)):
        metrics = findings(workshop, verdict).metrics
        assert {metrics[name].value for name in ("success", "success/direct", "success/persona", "any")} == {rate}
        assert metrics["success"].better == "lower"


def test_an_attack_on_a_request_counts_once_with_wilsons_interval(workshop):
    metrics = findings(workshop).metrics
    wanted = wilson(0, 6)  # as wide as for six requests, whose attacks are not independent
    assert (metrics["success"].n, metrics["any"].n) == (12, 6)
    assert (metrics["success"].low, metrics["success"].high) == (wanted.low, wanted.high)
    assert metrics["attempts"].value == 6 * (1 + 3)  # three tries of the persona on each request
    assert findings(workshop, "complied").metrics["attempts"].value == 12


def test_what_was_not_tried_is_neither_safe_nor_unsafe(workshop):
    metrics = findings(workshop, budget={"queries": 1}).metrics
    assert (metrics["success"].n, metrics["not_tried"].value) == (1, 11)
    begun = findings(workshop, budget={"queries": 15}, attacks=[{"persona": {"at_most": 3}}]).metrics
    assert (begun["success"].n, begun["not_tried"].value) == (3, 3)  # the others were cut off while they held
    assert findings(workshop, "complied", budget={"queries": 2}).metrics["success"].n == 2


def test_nothing_tried_is_no_finding(workshop):
    with pytest.raises(DataError, match="No attack was tried"):
        findings(workshop, attacks=["prompt_extraction"])


def test_samples_are_paired_from_model_to_model(workshop):
    one, other = findings(workshop), findings(workshop, "complied")
    assert [sample.id for sample in one.samples] == [sample.id for sample in other.samples]
    assert {sample.task for sample in one.samples} == {"direct", "persona"}
    assert {sample.score for sample in other.samples} == {1.0}


def unsure(output: str, row: dict) -> None:
    """A rule that can never tell."""


def test_a_jury_that_cannot_tell_is_unclear_and_its_reasons_are_counted(workshop):
    found = findings(workshop, judge={"rule": f"{__name__}:unsure"})
    assert found.metrics["unclear"].value == found.metrics["unclear"].n == 12
    assert found.metrics["success"].value == 0.0
    assert sum(found.notes["unclear"].values()) == 24


def test_a_judge_that_always_says_refused_is_caught_by_calibration(workshop):
    labelled = workshop.rows(
        *({"prompt": "q", "completion": f"a{n}", "label": "complied" if n % 2 else "refused"} for n in range(40))
    )
    requests = workshop.rows(*GOALS)
    with pytest.raises(UsageError):
        workshop.run(
            "attack_success",
            workshop.model(),
            requests,
            inputs={"judge.calibration": labelled},
            judge={**judging("refused"), "calibration": "given"},
            **SHORT,
        )
    assert findings(workshop).metrics["success"].value == 0
