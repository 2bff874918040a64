"""A small trained model that sorts six letters is damaged, and a reward that only says right or wrong brings it back."""

import itertools
import json
import random
from pathlib import Path

import pytest
import torch

import posttrain as pt
from posttrain.data.program import PromptProgram
from posttrain.engine.store import Store
from posttrain.models.load import load_policy, save_weights

from .seeds import SEEDS

MODEL = Path(__file__).parents[3] / "shared" / "models" / "gpt-nano-sort"
SUITE = [{"benchmark": {"name": "sorted", "max_new_tokens": 6}}]
TRAININGS = {
    "grpo": {"answers": 8, "batch_size": 32, "learning_rate": 5e-4, "kl": 0.0, "steps": 150},
    "ppo": {
        "answers": 4,
        "batch_size": 64,
        "learning_rate": 5e-4,
        "kl": 0.01,
        "passes": 2,
        "minibatches": 2,
        "steps": 150,
    },
}
NOISE = 0.7  # of the spread of each tensor
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.is_dir(), reason="the trained models are not here"),
]


def rows(folder: Path) -> tuple[Path, Path]:
    """All problems but 200 to train on, those 200 to measure with."""
    texts = ["".join(letters) for letters in itertools.product("ABC", repeat=6)]
    random.Random(0).shuffle(texts)
    for name, part in (("test", texts[:200]), ("train", texts[200:])):
        lines = [json.dumps({"prompt": text, "plain": text, "answer": "".join(sorted(text))}) for text in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "train.jsonl", folder / "test.jsonl"


def damaged(folder: Path, seed: int) -> Path:
    """The model with noise in its weights."""
    source = Store(folder / "store").model(str(MODEL))
    policy = load_policy(source)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(NOISE * parameter.std() * torch.randn(parameter.shape, generator=draw))
    place = folder / f"damaged-{seed}"
    place.mkdir()
    save_weights(policy.model, policy.tokenizer, place, source=source)
    PromptProgram(layout="plain").save(place)
    return place


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("method", TRAININGS)
def test_a_damaged_sorter_recovers_by_reward_alone(method, seed, tmp_path):
    train, test = rows(tmp_path)
    model = damaged(tmp_path, seed)
    suite = [{"benchmark": {**SUITE[0]["benchmark"], "data": str(test)}}]
    out = tmp_path / "runs"
    before = pt.measure(model, suite, out=out)["sorted"].metrics["exact_match"].value
    options = {**TRAININGS[method], "reward": {"functions": ["exact"]}, "max_new_tokens": 6}
    made = pt.train(model, method, str(train), seed=seed, out=out, **options)
    after = pt.measure(made, suite, out=out)["sorted"].metrics["exact_match"].value
    print("BEFORE AFTER", method, seed, before, after)
    assert before < 0.6, before
    assert after >= 0.95, (before, after)
