"""Merging gives the weights that the adapter computed with; of several models those that the formulas give."""

import json
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from posttrain.data.batch import Batch
from posttrain.engine.store import Store
from posttrain.models.drawn import difference, drawn_logits
from posttrain.models.load import load_policy
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError
from tests import tiny
from tests.kinds import MERGEABLE, VIRTUAL, wide

ROW = {"prompt": "a", "completion": "b"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MERGEABLE)
def test_merged_weights_compute_what_the_adapter_did(workshop, kind):
    options = {"learning_rate": 0.1, "steps": 3, "adapter": MERGEABLE[kind]}
    adapted = workshop.run("sft", wide(workshop), workshop.rows(ROW), **options)
    merged = workshop.run("merge", adapted)
    batch = Batch(tiny.trees(4, 2))
    before, after, base = (load_policy(m).score(batch) for m in (adapted, merged, wide(workshop)))
    assert (merged.form, merged.base) == ("dense", None)
    assert torch.allclose(before, after, atol=1e-3)
    assert not torch.allclose(base, after, atol=1e-2)
    assert not any((merged.path / name).exists() for name in ("adapter_config.json", "base_quantization.json"))
    assert 0 <= merged.facts["difference"]["logits_mean"] < merged.facts["difference"]["logits_largest"] < 1e-2
    assert abs(merged.facts["difference"]["kl"]) < 1e-6


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_are_in_no_weight(workshop, kind):
    adapted = workshop.run("sft", wide(workshop), workshop.rows(ROW), steps=1, adapter=VIRTUAL[kind])
    with pytest.raises(
        ModelError, match=r"holds virtual tokens.*Ship the adapter with its base, or train with `adapter: l"
    ):
        workshop.run("merge", adapted)


def test_only_adapters_are_accepted_by_themselves(workshop):
    assert workshop.stage("merge").accepted() == {"adapter"}
    assert workshop.stage("merge", how="linear", others=["b"]).accepted() == {"adapter", "dense"}
    assert workshop.stage("merge").makes_form("adapter") == "dense"


HOWS: dict[str, dict[str, Any]] = {
    "linear": {"weights": [1, 3]},
    "slerp": {},
    "task_arithmetic": {"weights": [0.5, 0.75], "scale": 0.8},
    "ties": {"density": 0.5},
    "dare_linear": {"density": 0.5},
    "dare_ties": {"density": 0.5},
}


def save(workshop, name: str, made: Any, tokenizer: Any = None) -> Model:
    made.save_pretrained(workshop.folder / name)
    (tokenizer or tiny.tokenizer()).save_pretrained(workshop.folder / name)
    found: Model = workshop.store.model(str(workshop.folder / name))
    return found


def near(base: Any, seed: int, much: float = 0.02) -> Any:
    """A model that learnt something: every weight a little further, most of it a few of them."""
    made = type(base)(base.config)
    made.load_state_dict(base.state_dict())
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in made.parameters():
            x.add_(much * torch.randn(x.shape, generator=draw) ** 3)
    return made


def family(workshop, kind: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any) -> list[Model]:
    """Two models and the base of both."""
    base = tiny.model(kind, **changes)
    made = {"base": base, "a": near(base, 1), "b": near(base, 2)}
    return [save(workshop, name, made[name].to(dtype)) for name in ("a", "b", "base")]


def merge(workshop, how: str, models: list[Model], seed: int = 0, **options: Any) -> Any:
    a, b, base = models
    inputs: dict[str, Any] = {"others": (b,)}
    said: dict[str, Any] = {"others": ["b"]}
    if how not in ("linear", "slerp"):
        inputs["base"], said["base"] = base, "base"
    return workshop.run("merge", a, inputs=inputs, seed=seed, how=how, **said, **options)


def stored(model: Model) -> dict[str, torch.Tensor]:
    return load_file(model.path / "model.safetensors")


def test_a_mean_is_the_mean_of_every_tensor(workshop):
    models = family(workshop)
    merged = stored(merge(workshop, "linear", models, weights=[1, 3]))
    a, b, _ = map(stored, models)
    assert merged.keys() == a.keys()
    for name, x in merged.items():
        assert torch.allclose(x, 0.25 * a[name] + 0.75 * b[name], atol=1e-6), name


def test_what_was_learnt_is_added_to_the_base(workshop):
    models = family(workshop)
    merged = stored(merge(workshop, "task_arithmetic", models, weights=[1, -0.5], scale=0.6))
    a, b, base = map(stored, models)
    for name, x in merged.items():
        assert torch.allclose(x, base[name] + 0.6 * (a[name] - 0.5 * b[name] + -0.5 * base[name]), atol=1e-6), name


def test_ties_as_its_paper_tells_it(workshop):
    """Another way to the same numbers: sorted, with loops over models, as the steps of the paper are written."""
    models = family(workshop)
    merged = stored(merge(workshop, "ties", models, density=0.3))
    a, b, base = map(stored, models)
    for name, x in merged.items():
        trimmed = []
        for tau in (a[name] - base[name], b[name] - base[name]):
            largest = tau.abs().flatten().sort(descending=True).values[: tau.numel() - round(0.7 * tau.numel())]
            trimmed.append(tau * (tau.abs() >= (largest[-1] if len(largest) else torch.inf)))
        sign = torch.sign(trimmed[0] + trimmed[1])
        own = [tau * (torch.sign(tau) == sign) for tau in trimmed]
        mean = (own[0] + own[1]) / ((own[0] != 0).int() + (own[1] != 0).int()).clamp(min=1)
        assert torch.allclose(x, base[name] + mean, atol=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma"])
def test_it_is_made_again_to_the_same_bytes_and_near_both(workshop, tmp_path_factory, kind, how):
    models = family(workshop, kind)
    merged = merge(workshop, how, models, **HOWS[how])
    first = stored(merged)
    workshop.store = Store(tmp_path_factory.mktemp("again"))
    again = merge(workshop, how, models, **HOWS[how])
    assert again.path != merged.path and again.digest == merged.digest
    other = stored(merge(workshop, how, models, seed=1, **HOWS[how]))
    assert any(not torch.equal(first[name], other[name]) for name in first) == how.startswith("dare")
    batch = Batch(tiny.trees(4, 2))
    says, *theirs = (load_policy(m).score(batch) for m in (merged, *models))
    assert says.isfinite().all() and all(not torch.allclose(says, each, atol=1e-3) for each in theirs)
    assert [p["model"] for p in merged.facts["parents"]] == [m.digest for m in models[:2]]
    assert all(0 < p["kl"] < 5 for p in merged.facts["parents"])


@pytest.mark.parametrize(("how", "trimmed"), [("task_arithmetic", 0), ("ties", 0.5), ("dare_linear", 0.5)])
def test_the_manifest_tells_what_was_trimmed_and_what_disagreed(workshop, how, trimmed):
    models = family(workshop)
    facts = merge(workshop, how, models, **({"density": 0.5} if trimmed else {})).facts
    assert facts["trimmed"] == pytest.approx(trimmed, abs=0.02)
    # signs are drawn, so that half of the weights that both moved disagree; of trimmed ones a quarter was moved by both
    assert facts["sign_conflicts"] == pytest.approx(0.125 if trimmed else 0.5, abs=0.02)
    assert facts["base"]["model"] == models[2].digest and facts["base"]["kl"] > 0


def test_a_model_minus_what_it_learnt_is_its_base(workshop):
    a, _, base = family(workshop)
    gone = workshop.run("merge", a, inputs={"base": base}, how="task_arithmetic", base="base", weights=[0.5], scale=1)
    back = workshop.run("merge", gone, inputs={"base": a, "others": ()}, how="task_arithmetic", base="a", weights=[2])
    assert all(torch.allclose(x, stored(base)[name], atol=1e-6) for name, x in stored(back).items())
    assert gone.facts["base"]["logits_largest"] < a_to(base, a)


def a_to(base: Model, model: Model) -> float:
    weights = [load_policy(each).model for each in (base, model)]
    return difference(*(drawn_logits(each) for each in weights))["logits_largest"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("how", ["linear", "dare_ties"])
def test_bfloat16_stays_and_tied_tables_are_merged_once(workshop, how, tied):
    models = family(workshop, dtype=torch.bfloat16, tie_word_embeddings=tied)
    merged = merge(workshop, how, models)
    found = stored(merged)
    assert {x.dtype for x in found.values()} == {torch.bfloat16}
    assert json.loads((merged.path / "config.json").read_text())["dtype"] == "bfloat16"
    assert ("lm_head.weight" in found) != tied
    if how == "linear":
        a, b, _ = map(stored, models)
        name = "model.embed_tokens.weight"
        assert torch.equal(found[name], ((a[name].float() + b[name].float()) / 2).to(torch.bfloat16))
        opened = hf.AutoModelForCausalLM.from_pretrained(merged.path, dtype=torch.float32)
        told = difference(drawn_logits(load_policy(models[0]).model), drawn_logits(opened))
        assert told["kl"] == pytest.approx(merged.facts["parents"][0]["kl"], rel=1e-3)


@pytest.mark.slow
def test_an_encoder_decoder_is_merged(workshop):
    made = tiny.encoder_decoder("bart")
    models = [save(workshop, name, each) for name, each in (("a", near(made, 1)), ("b", near(made, 2)), ("base", made))]
    merged = stored(merge(workshop, "task_arithmetic", models))
    a, b, base = map(stored, models)
    for name, x in merged.items():
        assert torch.allclose(x, a[name] + b[name] - base[name], atol=1e-5), name


@pytest.mark.slow
def test_an_adapter_counts_as_what_it_makes_of_its_base(workshop):
    options = {"learning_rate": 0.1, "steps": 3, "adapter": {"lora": {"rank": 3}}}
    adapted = workshop.run("sft", wide(workshop), workshop.rows(ROW), **options)
    dense = workshop.run("merge", adapted)
    inputs = {"others": (wide(workshop),)}
    with_adapter, with_dense = (
        stored(workshop.run("merge", each, inputs=inputs, how="linear", others=["wide"])) for each in (adapted, dense)
    )
    assert all(torch.allclose(x, with_dense[name], atol=1e-6) for name, x in with_adapter.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "mistral"},
            r"differ in `model_type`: 'llama' and 'mistral'\. Merge models that were trained from the sa",
        ),
        ({"vocab_size": 304}, r"differ in `vocab_size`: 300 and 304\. Their tables have other numbers of rows"),
        ({"tie_word_embeddings": True}, r"differ in `tie_word_embeddings`: False and True\. One has a head of its own"),
        ({"num_attention_heads": 2}, r"differ in `(head_dim|num_attention_heads)`: \d and \d+\. Merge models"),
        ({"rms_norm_eps": 1e-3}, r"differ in `rms_norm_eps`"),
    ],
)
def test_models_of_another_kind_are_refused(workshop, changes, message):
    changes = dict(changes)
    a, other = (
        save(workshop, "a", tiny.model()),
        save(workshop, "b", tiny.model(changes.pop("kind", "llama"), **changes)),
    )
    with pytest.raises(ModelError, match=message):
        merge(workshop, "linear", [a, other, a])


def test_another_tokenizer_is_refused(workshop):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["<evil>\n"])
    a, other = save(workshop, "a", tiny.model()), save(workshop, "b", tiny.model(seed=1), tokenizer)
    with pytest.raises(ModelError, match=r"have other tokens.* 1, such as '<evil>\\n'\. Merge models"):
        merge(workshop, "linear", [a, other, a])


def test_weights_that_are_no_numbers_are_refused(workshop):
    broken = tiny.model(seed=1)
    with torch.no_grad():
        broken.model.norm.weight[3] = torch.nan
    a, other = save(workshop, "a", tiny.model()), save(workshop, "b", broken)
    with pytest.raises(ModelError, match=r"model\.norm\.weight of .* infinite or no numbers"):
        merge(workshop, "linear", [a, other, a])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"others": ["b"]}, "say `how` they become one"),
        ({"weights": [1]}, "`weights` is said of several models"),
        ({"how": "linear"}, "`linear` takes several models"),
        ({"how": "slerp", "others": ["b", "c"]}, "and 3 are named. Write `how: linear`"),
        ({"how": "linear", "others": ["b"], "base": "base"}, "has no `base`"),
        ({"how": "linear", "others": ["b"], "density": 0.5}, "has no `density`"),
        ({"how": "ties", "others": ["b"]}, "Name that one: `base: base` where"),
        ({"how": "dare_ties", "others": ["b"]}, "adds up what each model learnt"),
        ({"how": "task_arithmetic", "others": ["b"], "base": "base", "density": 0.5}, "has no `density`"),
        ({"how": "linear", "others": ["b"], "weights": [1, 2, 3]}, "3 `weights` for 2 models"),
        ({"how": "linear", "others": ["b"], "weights": [0, 0]}, "all `weights` are 0"),
        ({"how": "ties", "others": ["b"], "base": "base", "weights": [1, -1]}, "Unlearn with `how: task_arithmetic`"),
    ],
)
def test_what_makes_no_sense_is_refused(workshop, options, message):
    with pytest.raises(ValueError, match=message):
        workshop.stage("merge", **options)
