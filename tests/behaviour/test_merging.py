"""Merging brings together what models learnt apart: on the lab, two skills of which each parent has none of the other's."""

from pathlib import Path

import pytest

import posttrain as pt
from tests.behaviour.seeds import SEEDS, at_least

pytestmark = pytest.mark.slow
Scores = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[Scores]:
    """For each seed, what share of both tests each model of the shipped recipe answers right."""
    return [scores(tmp_path_factory.mktemp("merge"), seed) for seed in SEEDS]


def scores(out: Path, seed: int) -> Scores:
    record = pt.run("merge", [f"seed={seed}"], out=out).record
    return {
        model.name: {name: found.metrics["exact_match"].value for name, found in model.findings.items()}
        for model in record.models
    }


def of(every: list[Scores], model: str, skill: str) -> list[float]:
    return [each[model][skill] for each in every]


def test_each_parent_has_one_skill_alone(every: list[Scores]) -> None:
    for own, other in (("polite", "law"), ("law", "polite")):
        assert at_least(0.9, of(every, own, own))
        assert max(of(every, own, other)) < 0.05


@pytest.mark.parametrize("model", ["linear", "slerp", "arithmetic", "ties", "dare"])
def test_a_merge_has_both(every: list[Scores], model: str) -> None:
    assert at_least(0.6, of(every, model, "polite"))
    assert at_least(0.8, of(every, model, "law"))


def test_a_skill_is_taken_out_and_the_other_stays(every: list[Scores]) -> None:
    assert at_least(0.8, of(every, "both", "law"))
    assert max(of(every, "without_law", "law")) < 0.2
    assert at_least(0.8, of(every, "without_law", "polite"))
