"""Every kind of adapter: computed exactly, saved as PEFT reads it, trained on, and its base left as it was."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from pydantic import ValidationError

from posttrain.data.batch import Batch
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.engine.method import stage_class
from posttrain.engine.source import FromRows
from posttrain.functional.layout import Tree
from posttrain.methods.objectives.sft import SFT
from posttrain.models import adapters, four_bits
from posttrain.models.adapters import NAME, Adapter, attach
from posttrain.models.load import load_policy, load_weights, save_weights
from posttrain.models.policy import Models, Policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import MissingExtra, ModelError, Stopped
from tests import tiny
from tests.kinds import KINDS, VIRTUAL


def choice(kind: str) -> Adapter:
    return Adapter.model_validate(KINDS[kind])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("base")
    tiny.model(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return Model(folder, "base")


def adapted(base: Model, kind: str, moved: bool = True) -> Policy:
    """A policy with a fresh adapter, which was moved away from its first values."""
    chosen = choice(kind)
    weights = attach(load_weights(base, four_bits=chosen.family.quantises), chosen, tiny.tokenizer(), seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (p for p in weights.parameters() if p.requires_grad and moved):
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    return Policy(weights, tiny.tokenizer(), adapter=NAME)


def saved(policy: Policy, base: Model, folder: Path) -> Model:
    save_weights(policy.model, policy.tokenizer, folder, source=base)
    return Model(folder, "saved", form="adapter", base=str(base.path))


def gradient(policy: Policy, way: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of some trees, and the gradient of their sum."""
    policy.model.zero_grad(set_to_none=True)
    logps = policy._logps(tiny.trees(4, 2), way)[0]
    logps.sum().backward()
    return logps.detach(), torch.cat([p.grad.flatten() for p in policy.trainable() if p.grad is not None])


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_are_exact_in_packed_and_padded_rows(family: str, kind: str):
    model = tiny.model(family)
    if hasattr(model.config, "num_key_value_heads") and family in ("gpt2", "gpt_neox"):
        del model.config.num_key_value_heads  # the tiny configs have it for all; these families do not know it
    policy = Policy(attach(model, choice(kind), tiny.tokenizer(), seed=0), tiny.tokenizer(), adapter=NAME)
    assert policy.layout == "packed", policy.why
    truth = gradient(policy, "logits")
    for way in ("packed", "padded"):
        logps, grad = gradient(policy, way)
        assert torch.allclose(logps, truth[0], atol=1e-5)
        assert (grad - truth[1]).norm() < 1e-5 * truth[1].norm()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_pefts_own_decoding(base: Model, kind: str):
    """Of prompts of unlike length, in one batch here and each alone there."""
    policy = adapted(base, kind)
    prompts = [tree.prompt for tree in tiny.trees(5, 1)]
    ours = TransformersSampler(policy, frozenset()).sample(prompts, Sampling(max_new_tokens=8))
    for prompt, answer in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        made = policy.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, eos_token_id=None
        )
        assert made[0, -8:].tolist() == answer


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_plain_peft_loads_what_was_saved(base: Model, kind: str, tmp_path: Path):
    policy = adapted(base, kind)
    folder = saved(policy, base, tmp_path).path
    how: dict[str, Any] = {}
    if kind == "qlora":
        how["quantization_config"] = hf.BitsAndBytesConfig(**json.loads((folder / four_bits.FILE).read_text()))
    plain = hf.AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32, **how)
    four_bits.keep_gradients(plain)  # else a processor with bfloat16 instructions rounds the scales
    loaded = peft.PeftModel.from_pretrained(plain, folder).eval()
    ids = torch.tensor([[7, 9, 11, 200, 45, 8]])
    with torch.no_grad():
        assert torch.allclose(loaded(input_ids=ids).logits, policy.model(input_ids=ids).logits, atol=2e-5)
        assert not torch.allclose(loaded(input_ids=ids).logits[:, -6:], _base_logits(base, ids), atol=1e-2)


def _base_logits(base: Model, ids: torch.Tensor) -> torch.Tensor:
    return load_weights(base)(input_ids=ids).logits


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_is_loaded_and_trained_on(base: Model, kind: str, tmp_path: Path):
    policy = adapted(base, kind)
    model = saved(policy, base, tmp_path)
    again, batch = load_policy(model), Batch(tiny.trees(4, 2))
    assert torch.allclose(again.score(batch), policy.score(batch), atol=1e-4)
    assert all(NAME in name for name, p in again.model.named_parameters() if p.requires_grad)
    job = Job(tmp_path, tmp_path)
    fit(Models(again), SFT(), FromRows(tiny.trees(8, 1), 4, 0), Steps(3, 1e-2), job)
    assert not torch.allclose(again.score(batch), policy.score(batch), atol=1e-3)
    (tmp_path / "second").mkdir()
    second = load_policy(saved(again, base, tmp_path / "second"))
    assert torch.allclose(second.score(batch), again.score(batch), atol=1e-4)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_the_reference_reads_no_virtual_token(base: Model, kind: str):
    policy = adapted(base, kind)
    reference = Policy(policy.model, policy.tokenizer, adapter=None)
    batch = Batch(tiny.trees(4, 2))
    assert torch.allclose(reference.score(batch), load_policy(base).score(batch), atol=1e-5)
    assert (reference.context, policy.context) == (512, 507)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plus", "dora", "pissa", "qlora", "ia3", "prefix", "p_tuning"])
def test_a_stopped_run_goes_on_to_the_same_bytes(base: Model, kind: str, tmp_path: Path):
    source, steps = FromRows(tiny.trees(9, 1), 4, seed=7), Steps(5, 1e-2)
    whole, first, rest = (adapted(base, kind, moved=False) for _ in range(3))
    fit(Models(whole), SFT(), source, steps, Job(tmp_path, tmp_path))
    seen: list[int] = []
    job = Job(tmp_path, tmp_path, emit=lambda name, **f: seen.append(1), stop=lambda: len(seen) == 2)
    with pytest.raises(Stopped):
        fit(Models(first), SFT(), source, steps, job)
    fit(Models(rest), SFT(), source, steps, Job(tmp_path, tmp_path))
    for ours, theirs in zip(rest.trainable(), whole.trainable(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_base_in_four_bits_has_the_gradient_of_its_rounded_weights(base: Model):
    """In evaluation mode too, where bitsandbytes computes without one on some processors."""
    policy = adapted(base, "qlora")
    dense = load_weights(base)
    exact = dense.model.layers[0].mlp.down_proj.weight.clone()
    four_bits.take_rounded(dense, policy.model.get_base_model())
    rounded = dense.model.layers[0].mlp.down_proj.weight
    assert 0.05 < (rounded - exact).norm() / exact.norm() < 0.12
    twin = attach(dense, Adapter.model_validate({"lora": {"rank": 3}}), tiny.tokenizer(), seed=0)
    twin.load_state_dict({n: p for n, p in policy.model.state_dict().items() if "lora_" in n}, strict=False)
    policy.score(Batch(tiny.trees(2, 1)))
    expected = gradient(Policy(twin, tiny.tokenizer(), adapter=NAME), "packed")
    for ours, theirs in zip(gradient(policy, "packed"), expected, strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_layers_without_whole_blocks_are_left_as_they_are(tmp_path: Path):
    """Rows of 96 weights are a block and a half of 64."""
    tiny.model(hidden_size=64, intermediate_size=96).save_pretrained(tmp_path)
    layer = load_weights(Model(tmp_path, "narrow"), four_bits=True).model.layers[0].mlp
    assert [type(m).__name__ for m in (layer.gate_proj, layer.up_proj, layer.down_proj)] == [
        *["Linear4bit"] * 2,
        "Linear",
    ]


def test_a_model_of_narrow_layers_alone_is_refused(tmp_path: Path):
    tiny.model().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"No layer of this model has rows of whole blocks of 64.*Use `adapter: lora`"):
        load_weights(Model(tmp_path, "narrow"), four_bits=True)


def test_pissa_begins_as_the_model_and_is_saved_as_plain_lora(base: Model, tmp_path: Path):
    policy, batch = adapted(base, "pissa", moved=False), Batch(tiny.trees(4, 2))
    assert torch.allclose(policy.score(batch), load_policy(base).score(batch), atol=1e-4)
    disabled = Policy(policy.model, policy.tokenizer, adapter=None)
    assert not torch.allclose(disabled.score(batch), policy.score(batch), atol=1e-1)
    config = peft.PeftConfig.from_pretrained(saved(policy, base, tmp_path).path)
    assert (config.r, config.init_lora_weights) == (6, True)


def test_the_second_matrix_of_lora_plus_learns_faster(base: Model, tmp_path: Path):
    """Adam's first step moves a weight by the learning rate, whatever its gradient."""
    moved = {}
    for kind in ("lora", "plus"):
        policy = adapted(base, kind, moved=False)
        fit(Models(policy), SFT(), FromRows(tiny.trees(4, 1), 4, 0), Steps(1, 1e-3, warmup=0), Job(tmp_path, tmp_path))
        moved[kind] = torch.cat([p.detach().flatten() for n, p in policy.model.named_parameters() if "lora_B" in n])
        (tmp_path / "checkpoint.pt").unlink(missing_ok=True)
    assert torch.allclose(moved["plus"], 8 * moved["lora"], rtol=1e-3, atol=1e-6)
    assert moved["lora"].abs().max() == pytest.approx(1e-3, rel=1e-3)


def test_strengths_by_hand(base: Model):
    def scale(kind: str) -> float:
        return adapted(base, kind).model.base_model.model.model.layers[0].self_attn.q_proj.scaling[NAME]

    assert (scale("lora"), scale("rslora")) == (2.0, pytest.approx(5 / math.sqrt(3)))


def test_lengths_are_learnt_apart_with_dora(base: Model):
    """A layer as it is has the lengths of its rows as magnitudes: nothing changes until one is doubled."""
    policy = adapted(base, "dora", moved=False)
    layer = policy.model.base_model.model.model.layers[0].mlp.down_proj
    magnitude = layer.lora_magnitude_vector[NAME].weight
    assert torch.allclose(magnitude, layer.weight.norm(dim=1), atol=1e-5)
    x = torch.ones(1, 128)
    before = layer(x)
    with torch.no_grad():
        magnitude[3] *= 2
    assert torch.allclose(layer(x)[0, 3], 2 * before[0, 3], rtol=1e-4)


def test_virtual_tokens_begin_as_words(base: Model):
    tokenizer = tiny.tokenizer()
    weights = load_weights(base)
    words = attach(weights, Adapter.model_validate({"prompt": {"tokens": 5, "text": "ab"}}), tokenizer, seed=0)
    ids = tokenizer.encode("ababa", add_special_tokens=False)
    expected = weights.get_input_embeddings().weight[ids]
    assert torch.allclose(words.prompt_encoder[NAME].embedding.weight, expected)
    chosen = Adapter.model_validate({"prefix": {"tokens": 5, "text": "ab"}})
    policy = Policy(attach(load_weights(base), chosen, tokenizer, seed=0), tokenizer, adapter=NAME)
    tree = tiny.trees(1, 1)[0]
    behind = load_policy(base).score(Batch((Tree((*ids, *tree.prompt), tree.branches),)))
    assert torch.allclose(policy.score(Batch((tree,))), behind, atol=1e-4), "a text behind the words"


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_written_in_several_ways(kind: str):
    chosen = choice(kind)
    assert Adapter.model_validate(chosen.model_dump()) == chosen
    assert list(chosen.model_dump()) == [name for name in Adapter.model_fields if getattr(chosen, name)]


def test_a_name_alone_means_an_adapter_as_it_comes():
    assert Adapter.model_validate("lora") == Adapter.model_validate({"lora": None}) == Adapter(lora=adapters.LoRA())


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "exactly one"),
        ({"lora": {}, "prefix": {}}, "exactly one"),
        ("lorra", "Did you mean 'lora'"),
        ({"lora": {"rank": 0}}, "rank"),
        ({"qlora": {"init": "pissa"}}, "init"),
    ],
)
def test_what_is_no_adapter_is_told(written: Any, message: str):
    with pytest.raises(ValidationError, match=message):
        Adapter.model_validate(written)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"lora": {"targets": ["q_proj", "qq_proj"]}}, "no layers called 'q_proj, qq_proj'.*down_proj, gate_proj"),
        ({"lora": {"targets": ".*nothing"}}, "no layers called '.*nothing'"),
        ({"ia3": {"targets": ["knee"]}}, "not all of knee.*its layers are down_proj"),
        ({"prompt": {"text": " "}}, None),
    ],
)
def test_layers_that_are_not_there_are_told(base: Model, written: Any, message: str | None):
    if message is None:
        attach(load_weights(base), Adapter.model_validate(written), tiny.tokenizer(), seed=0)
        return
    with pytest.raises(ModelError, match=message):
        attach(load_weights(base), Adapter.model_validate(written), tiny.tokenizer(), seed=0)


def test_without_bitsandbytes_the_cure_is_told(base: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match=r"adapter: qlora.*pip install 'posttrain\[bits\]'"):
        load_weights(base, four_bits=True)


def test_an_adapter_recommends_what_is_not_given():
    sft, dpo = stage_class("sft"), stage_class("dpo")
    full = sft(data="x").learning_rate
    assert sft(data="x", adapter="lora").learning_rate == pytest.approx(10 * full)
    assert dpo(data="x", adapter="lora").learning_rate == pytest.approx(10 * dpo(data="x").learning_rate)
    assert sft(data="x", adapter="lora", learning_rate=full).learning_rate == full
    prompt = sft(data="x", adapter="prompt")
    assert (prompt.batch_size, prompt.epochs) == (8, 8)
    assert sft(data="x", adapter="prompt", epochs=2).epochs == 2
    with pytest.raises(ValidationError, match="exactly one"):
        sft(data="x", adapter={})


def test_the_share_that_is_trained_is_of_all_weights(base: Model):
    """Weights in four bits stand two to a byte and count all the same."""
    dense = load_weights(base)
    assert adapters.n_weights(load_weights(base, four_bits=True)) == sum(p.numel() for p in dense.parameters())


def test_what_osf_cannot_adapt_is_refused():
    narrow = tiny.model(hidden_size=16, intermediate_size=8)
    for options, why in (
        ({"kept": 0.1}, "too narrow to keep 10% of"),
        ({"targets": ["q_proj", "nothing"]}, "no layers called"),
    ):
        with pytest.raises(ModelError, match=why):
            attach(narrow, Adapter.model_validate({"osf": options}), tiny.tokenizer(), seed=0)
    with pytest.raises(ModelError, match="Conv1D"):
        attach(tiny.model("gpt2"), Adapter.model_validate("osf"), tiny.tokenizer(), seed=0)
