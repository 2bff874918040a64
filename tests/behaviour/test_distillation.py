"""A student of half the layers, taught by the whole model on prompts without labels, leaves one behind that learns a few
labels; one whose tokens are shorter learns from the same teacher; and a model that lost a layer is healed by what it was. Test
splits of the lab."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain import lab
from posttrain.schema.record import RunRecord
from tests.behaviour.seeds import SEEDS, at_least

pytestmark = pytest.mark.slow

LAB = Path(lab.__file__).parent / "base"
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


def with_shorter_tokens(folder: Path) -> Path:
    """The lab's base model, whose tokenizer has forgotten two fifths of its merges."""
    shutil.copytree(LAB, folder)
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    model = told["model"]
    n = int(0.6 * len(model["merges"]))
    gone = {"".join(pair) for pair in model["merges"][n:]}
    model["merges"] = model["merges"][:n]
    model["vocab"] = {f"gone {id}" if token in gone else token: id for token, id in model["vocab"].items()}
    file.write_text(json.dumps(told), encoding="utf-8")
    return folder


def test_a_student_of_shorter_tokens_learns_from_the_same_teacher(out: Path) -> None:
    finer, found = with_shorter_tokens(out / "finer"), []
    for seed in SEEDS:
        teacher = str(pt.run({**STUDENT, "seed": seed}, out=out).models["sft"].path)
        taught = {"teacher": teacher, "divergence": "uld", "labels": 0.5, **TAUGHT, "data": HEALING}
        stages = [{"keep_layers": {"name": "half", "every": 2}}, {"distill": {"name": "taught", **taught}}]
        measure = [{"benchmark": {"name": "chat", "data": "lab:chat/test", "max_new_tokens": 96}}]
        found.append(
            chat(pt.run({"model": str(finer), "seed": seed, "measure": measure, "stages": stages}, out=out).record)
        )
    print("ULD", found)
    assert at_least(0.10, [each["taught"] - each["half"] for each in found])


def test_a_model_without_a_layer_is_healed(out: Path) -> None:
    records = [pt.run({**HEALED, "seed": seed}, out=out).record for seed in SEEDS]
    apart = [{name: value(each, name, "drift", "kl") for name in ("dropped", "healed")} for each in records]
    print("HEALED", apart, [chat(each) for each in records])
    for each, record in zip(apart, records, strict=True):
        assert each["dropped"] > 3 * each["healed"], each
        assert chat(record)["healed"] > chat(record)["dropped"]
