"""What a plan says of memory, held against what a process of its own took, and against what autograd kept."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.batch import Batch
from posttrain.engine.estimate import Load, Way, _layers, estimate
from posttrain.engine.optimizer import make_optimizer
from posttrain.models import activations, attention
from posttrain.models.adapters import NAME, Adapter, attach
from posttrain.models.adapters.carried import carried
from posttrain.models.anatomy import Anatomy, read_anatomy
from posttrain.models.policy import Policy
from posttrain.pipeline.memory import Forecast, forecasts
from posttrain.pipeline.run import preview
from posttrain.schema.errors import ModelError
from tests import tiny
from tests.models.test_activations import kept_bytes

SIZES = {
    "narrow": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8},
    "wide": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
}
WAYS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "an adapter": {"adapter": {"lora": {"rank": 16}}},
    "checkpoints": {"gradient_checkpointing": True},
}
GIVEN_BACK_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
LENGTH = 256


def furnish(folder: Path, **changes: Any) -> None:
    """A model of random weights and rows of LENGTH tokens, a byte each."""
    for name, config in (("model", changes), ("warm_model", {})):
        tiny.model(**{"max_position_embeddings": 512, **config}).save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)
    for name, n, length in (("rows", 64, LENGTH), ("warm_rows", 4, 40)):
        row = json.dumps({"prompt": "a" * 20, "completion": "b" * (length - 23)})
        (folder / f"{name}.jsonl").write_text(f"{row}\n" * n, encoding="utf-8")


def told(folder: Path, method: str, options: dict[str, Any]) -> Forecast:
    recipe = {
        "name": "memory",
        "model": str(folder / "model"),
        "measure": ["size"],
        "stages": [{method: {"data": str(folder / "rows.jsonl"), **options}}],
    }
    found = preview(recipe, out=folder / "runs")
    return forecasts(found.plan, found.outside, found.states)[method]


def measured(folder: Path, method: str, options: dict[str, Any]) -> int:
    """Bytes at the peak of a training in a process of its own."""
    places = {"model": "model", "warm_model": "warm_model", "rows": "rows.jsonl", "warm_rows": "warm_rows.jsonl"}
    asked = {name: str(folder / place) for name, place in places.items()}
    asked |= {"method": method, "options": {**options, "steps": 2, "checkpoint_seconds": 1e6}}
    environment = {**os.environ, **GIVEN_BACK_AT_ONCE, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.peak", str(folder), json.dumps(asked)],
        check=False, capture_output=True, text=True, env=environment, cwd=root, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_the_total_is_within_a_fifth_of_the_peak(way: str, size: str, tmp_path: Path):
    furnish(tmp_path, **SIZES[size])
    options = {**WAYS[way], "batch_size": 32, "micro_tokens": 4096, "max_length": LENGTH}
    forecast, peak = told(tmp_path, "sft", options), measured(tmp_path, "sft", options)
    assert forecast.memory is not None
    total = forecast.memory.total
    assert forecast.tokens == 4096
    assert forecast.memory.activations > 0.4 * total, "what the estimate is about"
    print(f"{way}, {size}: told {total / 1e6:.0f} MB, measured {peak / 1e6:.0f} MB, {total / peak:.3f}")
    assert 0.8 * peak < total < 1.2 * peak


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, "lora"])
def test_a_reference_is_counted_once_and_shared_under_an_adapter(adapter: str | None, tmp_path: Path):
    furnish(tmp_path, **SIZES["narrow"] | {"vocab_size": 16_000})
    rows = [{"prompt": "a" * 100, "chosen": "b" * 75, "rejected": "c" * 75}] * 40
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "warm_rows.jsonl").write_text(json.dumps(rows[0] | {"prompt": "a"}) + "\n", encoding="utf-8")
    options = {"batch_size": 16, "micro_tokens": 2048, **({"adapter": adapter} if adapter else {})}
    forecast, peak = told(tmp_path, "dpo", options), measured(tmp_path, "dpo", options)
    assert forecast.memory is not None
    assert bool(forecast.memory.copies) == (adapter is None)
    assert 0.8 * peak < forecast.memory.total < 1.2 * peak


@pytest.mark.slow
def test_a_reward_model_goes_through_no_vocabulary(tmp_path: Path):
    furnish(tmp_path, **SIZES["narrow"] | {"vocab_size": 16_000, "tie_word_embeddings": True})
    rows = [{"prompt": "a" * 100, "chosen": "b" * 75, "rejected": "c" * 75}] * 40
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "warm_rows.jsonl").write_text(json.dumps(rows[0] | {"prompt": "a"}) + "\n", encoding="utf-8")
    options = {"batch_size": 16, "micro_tokens": 2048}
    forecast, peak = told(tmp_path, "reward", options), measured(tmp_path, "reward", options)
    assert forecast.memory is not None and forecast.memory.logits == 0
    assert 0.8 * peak < forecast.memory.total < 1.2 * peak, (forecast.memory, peak)


def anatomy_of(model: Any, folder: Path) -> Anatomy:
    model.save_pretrained(folder)
    return read_anatomy(folder)


WIDE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4}


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_layers_keep_what_autograd_is_seen_to_keep(family: str, checkpoints: bool, tmp_path: Path):
    heads = {"head_dim": 16} if family in ("qwen3", "gemma", "glm4") else {}
    model = tiny.model(family, **WIDE | heads)
    found = anatomy_of(model, tmp_path)
    assert found.weights == model.num_parameters()
    assert found.layers == 4
    policy = Policy(model, tiny.tokenizer(), layout="packed")
    check_kept(policy, found, Way(checkpointing=checkpoints), checkpoints)


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapter",
    [
        {"lora": {}},
        {"lora": {"targets": ["q_proj", "v_proj"]}},
        {"lora": {"rank": 2}},
        {"osf": {}},
        {"osf": {"kept": 0.9}},
    ],
)
def test_an_adapter_keeps_what_autograd_is_seen_to_keep(adapter: dict[str, Any], tmp_path: Path):
    found = anatomy_of(tiny.model(**WIDE), tmp_path)
    chosen = Adapter.model_validate(adapter)
    model = attach(tiny.model(**WIDE), chosen, tiny.tokenizer(), seed=0)
    way = Way(adapter=carried(chosen.family, found))
    policy = Policy(model, tiny.tokenizer(), adapter=NAME, layout="packed")
    check_kept(policy, found, way, False)


def check_kept(policy: Policy, found: Anatomy, way: Way, checkpoints: bool) -> None:
    batch = Batch(tiny.trees(40, 1, longest=60))
    if checkpoints:
        activations.checkpoint_layers(policy.model)
    plan = attention.plan_of(segments_of(batch))
    load = Load(batch.n_tokens(), batch.counts().tokens, sum(block.bias.numel() for block in plan.blocks))
    kept, _ = _layers(found, way, load)
    head = 4 * load.trained * (tiny.VOCABULARY + found.width)
    assert kept + head == pytest.approx(kept_bytes(policy, batch), rel=0.12)


def segments_of(batch: Batch) -> Any:
    from posttrain.functional.layout import packed

    return packed(batch.trees).segments


@pytest.mark.parametrize(
    "kind", ["lora", "prefix", "prompt", "p_tuning", "ia3", "osf", {"osf": {"kept": 0.8}}, {"lora": {"dora": True}}]
)
def test_an_adapters_weights_are_counted_without_it(kind: Any, tmp_path: Path):
    found = anatomy_of(tiny.model(), tmp_path)
    adapter = Adapter.model_validate(kind)
    model = attach(tiny.model(), adapter, tiny.tokenizer(), seed=0)
    told = carried(adapter.family, found)
    assert told.weights == sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(b.numel() for name, b in model.named_buffers() if "osf" in name)
    assert told.frozen == frozen


def test_by_hand(tmp_path: Path):
    """A norm and a matrix are enough to see every rule: 100 weights, of which the optimizer holds two moments."""
    found = anatomy_of(tiny.model(), tmp_path)
    n, load = found.weights, Load(tokens=10, trained=5, pairs=100)
    plain = estimate(found, Way(), load)
    assert (plain.parameters, plain.gradients, plain.optimizer, plain.copies) == (4 * n, 4 * n, 8 * n, 0)
    assert estimate(found, Way(own_reference=True), load).copies == 4 * n
    assert estimate(found, Way(anchors=2, rules=1), load).copies == (8 + 12) * n
    assert estimate(found, Way(eight_bits=True), load).optimizer == pytest.approx(2 * n * (1 + 4 / 256), abs=1)
    assert plain.total == sum(value for name, value in plain.as_dict().items() if name != "total")


def test_bytes_of_eight_bits_are_those_that_are_held(tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    model = tiny.model(hidden_size=256, intermediate_size=704)
    found = anatomy_of(model, tmp_path)
    optimizer = make_optimizer("adamw_8bit", [p for p in model.parameters() if p.requires_grad], 1e-3)
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    optimizer.step()
    held = sum(
        x.nbytes
        for state in optimizer.state.values()
        for name, x in state.items()
        if "map" not in name and hasattr(x, "nbytes")
    )
    assert estimate(found, Way(eight_bits=True), Load(1, 1, 1)).optimizer == pytest.approx(held, rel=0.05)


def test_more_is_never_told_as_less(tmp_path: Path):
    found = anatomy_of(tiny.model(), tmp_path)
    load = Load(1000, 900, 50_000)
    whole = estimate(found, Way(), load)
    assert estimate(found, Way(), load.scaled(0.5)).activations == pytest.approx(whole.activations / 2, rel=0.01)
    assert estimate(found, Way(checkpointing=True), load).activations < whole.activations
    assert estimate(found, Way(offloading=True), load).activations < whole.activations


def test_a_model_that_cannot_be_told_says_why(tmp_path: Path):
    with pytest.raises(ModelError, match=r"config.json cannot be read"):
        read_anatomy(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="has no safetensors files"):
        read_anatomy(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ModelError, match="no header that can be read"):
        read_anatomy(tmp_path)
