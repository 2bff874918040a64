"""A student of half the layers, taught by the whole model on prompts without labels, leaves one behind that learns a few
labels; and a model that lost a layer is healed by what it was. Test splits of the lab."""

from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain.schema.record import RunRecord
from tests.behaviour.seeds import SEEDS, at_least

pytestmark = pytest.mark.slow

LEARNT = {"learning_rate": 1e-3, "batch_size": 16}
PROMPTS = {"path": "lab:chat/train", "take": 3000}
HEALING = {"path": "lab:chat/train", "take": 2000}
FEW = {"path": "lab:chat/train", "take": 200}
ANSWERED = {"temperature": 1.0, "max_new_tokens": 64}
TAUGHT = {"from": "half", "data": "answers", "learning_rate": 2e-3, "batch_size": 16, "epochs": 2}
STUDENT: dict[str, Any] = {
    "model": "lab",
    "measure": [{"benchmark": {"name": "chat", "data": "lab:chat/test", "max_new_tokens": 64}}],
    "stages": [
        {"sft": {"data": "lab:chat/train", "epochs": 2, **LEARNT}},
        {"keep_layers": {"name": "half", "every": 2}},
        {"sft": {"name": "labelled", "from": "half", "data": FEW, "epochs": 4, **LEARNT}},
        {"sample": {"name": "answers", "from": "sft", "data": PROMPTS, "sampling": ANSWERED}},
        {"sft": {"name": "copied", **TAUGHT}},
        {"distill": {"name": "taught", "teacher": "sft", **TAUGHT}},
    ],
}
HEALED: dict[str, Any] = {
    "model": "lab",
    "measure": [
        {"benchmark": {"name": "chat", "data": "lab:chat/test", "max_new_tokens": 64}},
        {"drift": {"data": "lab:chat/test", "against": "sft", "max_new_tokens": 48}},
    ],
    "stages": [
        {"sft": {"data": "lab:chat/train", "epochs": 2, **LEARNT}},
        {"keep_layers": {"name": "dropped", "drop": 1, "by": "influence", "data": "lab:chat/train"}},
        {"distill": {"name": "healed", "teacher": "sft", "data": HEALING, **LEARNT}},
    ],
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def value(record: RunRecord, model: str, measure: str, metric: str) -> float:
    return record.model(model).findings[measure].metrics[metric].value


def chat(record: RunRecord) -> dict[str, float]:
    names = [model.name for model in record.models]
    return {name: value(record, name, "chat", "exact_match") for name in names}


def test_a_taught_student_beats_one_with_a_few_labels(out: Path) -> None:
    records = [pt.run({**STUDENT, "seed": seed}, out=out).record for seed in SEEDS]
    found = [chat(record) for record in records]
    print("STUDENT", found)
    assert at_least(0.10, [each["taught"] - each["labelled"] for each in found])
    assert at_least(0.10, [each["copied"] - each["labelled"] for each in found])  # sequence-level distillation
    assert all(each["half"] < each["labelled"] for each in found)


def test_a_model_without_a_layer_is_healed(out: Path) -> None:
    records = [pt.run({**HEALED, "seed": seed}, out=out).record for seed in SEEDS]
    apart = [{name: value(each, name, "drift", "kl") for name in ("dropped", "healed")} for each in records]
    print("HEALED", apart, [chat(each) for each in records])
    for each, record in zip(apart, records, strict=True):
        assert each["dropped"] > 3 * each["healed"], each
        assert chat(record)["healed"] > chat(record)["dropped"]
