"""What adapters reach beside full fine-tuning, on test splits: the shipped recipe, then the whole instruction set.

`docs/adapters.md` holds what was measured over three seeds.
"""

from pathlib import Path
from statistics import mean
from typing import Any

import pytest

import posttrain as pt
from posttrain.schema.record import RunRecord
from tests.behaviour.seeds import SEEDS

pytestmark = pytest.mark.slow
LOW_RANK = ("lora", "dora", "qlora")
VIRTUAL = ("prefix", "prompt", "p_tuning")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def records(out: Path) -> list[RunRecord]:
    return [pt.run("adapters", [f"seed={seed}"], out=out).record for seed in SEEDS]


def exact(record: RunRecord, model: str, measure: str = "polite") -> float:
    return record.model(model).findings[measure].metrics["exact_match"].value


def over(records: list[RunRecord], model: str, measure: str = "polite") -> float:
    return mean(exact(record, model, measure) for record in records)


def fact(record: RunRecord, model: str, name: str) -> Any:
    return next(stage.facts[name] for stage in record.stages if stage.name == model)


def test_low_rank_adapters_learn_the_narrow_task_with_three_percent_of_the_weights(records: list[RunRecord]) -> None:
    full = over(records, "full")
    assert full > 0.8
    for name in LOW_RANK:
        assert over(records, name) >= 0.95 * full, name
        assert fact(records[0], name, "trained_share") < 0.03


def test_virtual_tokens_reach_half_of_the_gain(records: list[RunRecord]) -> None:
    base, full = exact(records[0], "base"), over(records, "full")
    assert base < 0.05
    for name in VIRTUAL:
        assert over(records, name) - base >= 0.5 * (full - base), name


def test_a_base_in_four_bits_merges_into_what_it_computed(records: list[RunRecord]) -> None:
    for record in records:
        assert abs(exact(record, "merge") - exact(record, "qlora")) <= 0.02
        assert fact(record, "merge", "difference")["kl"] < 1e-6


def test_low_rank_adapters_learn_the_instruction_set(out: Path) -> None:
    data, rate = {"path": "lab:chat/train", "take": 1500}, {"epochs": 2, "batch_size": 16}
    stage = {"from": "base", "data": data, **rate}
    adapters: dict[str, Any] = {
        "lora": {"lora": {"rank": 4}},
        "dora": {"lora": {"rank": 4, "dora": True}},
        "qlora": {"qlora": {"rank": 4}},
    }
    recipe = {
        "name": "chat-adapters",
        "model": "lab",
        "measure": [{"benchmark": {"name": "chat", "data": "lab:chat/test", "max_new_tokens": 64}}],
        "stages": [
            {"sft": {"name": "full", "learning_rate": 6e-4, **stage}},
            *(
                {"sft": {"name": name, "adapter": each, "learning_rate": 1e-2, **stage}}
                for name, each in adapters.items()
            ),
        ],
    }
    records = [pt.run(recipe, [f"seed={seed}"], out=out).record for seed in SEEDS]
    full = over(records, "full", "chat")
    assert full > 0.5
    for name in LOW_RANK:
        assert over(records, name, "chat") >= 0.8 * full, name
