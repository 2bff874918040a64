"""Narrower: what has no effect is taken out without a trace, other programs open what is left, and it makes up for the rest."""

from copy import deepcopy
from math import sqrt

import pytest
import torch
import transformers as hf
from pydantic import ValidationError
from torch import Tensor

import posttrain as pt
from posttrain.engine.job import Job
from posttrain.engine.narrowing import Narrowing, largest
from posttrain.functional.divergence import plain_divergence
from posttrain.methods.transforms.narrow import rounded
from posttrain.models.drawn import drawn_logits
from posttrain.models.load import load_weights
from posttrain.models.width import axes, cut
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError, Stopped
from tests import tiny
from tests.behaviour.seeds import SEEDS
from tests.methods.transforms.test_gptq import TEXTS

CPU = torch.device("cpu")
FEW = {"sequences": 4, "length": 32}
NARROW, WIDE = {"ffn": 48, "hidden": 32, "kv_groups": 2}, {"ffn": 64, "hidden": 48, "kv_groups": 3}
EPS = 1e-2  # large, so that a norm tells whether it was thought of
FAMILIES = {
    "llama": {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": EPS},
    "mistral": {"rms_norm_eps": EPS},
    "qwen3": {"rms_norm_eps": 1e-9},  # its heads have norms of the same eps
    "gemma": {"rms_norm_eps": EPS},
    "glm4": {"rms_norm_eps": EPS},
    "phi3": {"rms_norm_eps": EPS},
}


def model(family: str = "llama", widths=NARROW, **changes):
    """With two query heads of 8 to a group, and norms and biases that are not all alike."""
    groups = widths["kv_groups"]
    sizes = {"hidden_size": widths["hidden"], "intermediate_size": widths["ffn"]}
    heads = {"num_attention_heads": 2 * groups, "num_key_value_heads": groups, "head_dim": 8}
    made = tiny.model(family, **sizes, **heads, **{**FAMILIES.get(family, {}), **changes})
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for x in made.parameters():
            if x.dim() == 1:
                x.add_(torch.randn(x.shape, generator=draw) / 4)
    return made


def given(workshop, weights) -> Model:
    folder = workshop.folder / "given"
    weights.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return workshop.store.model(str(folder))


def opened(made: Model) -> hf.PreTrainedModel:
    return hf.AutoModelForCausalLM.from_pretrained(made.path, dtype=torch.float32)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def where(part: str, dim: int, chosen: dict[str, Tensor]) -> Tensor:
    """Which entries of an axis of a wide weight are a narrow one's, written down by name."""
    ffn, stream, groups = chosen["ffn"], chosen["hidden"], chosen["kv_groups"]
    key, query = ((groups[:, None] * n + torch.arange(n)).flatten() for n in (8, 16))
    k, q = 8 * WIDE["kv_groups"], 16 * WIDE["kv_groups"]
    rows = {
        "q_proj": query, "k_proj": key, "v_proj": key, "qkv_proj": torch.cat([query, q + key, q + k + key]),
        "gate_proj": ffn, "up_proj": ffn, "gate_up_proj": torch.cat([ffn, WIDE["ffn"] + ffn]),
        "q_norm": torch.arange(8), "k_norm": torch.arange(8),
        "embed_tokens": torch.arange(tiny.VOCABULARY), "lm_head": torch.arange(tiny.VOCABULARY),
    }  # fmt: skip
    columns = {"o_proj": query, "down_proj": ffn}
    return (columns if dim else rows).get(part, stream)


@torch.no_grad()
def padded(narrow, family: str, silent: tuple[str, ...]):
    """A wide model that computes what a narrow one does: weights at drawn places among noise, which is zero where the stream
    is written, and in the matrices that are to be `silent`."""
    eps = narrow.config.rms_norm_eps * NARROW["hidden"] / WIDE["hidden"]
    wide, draw = model(family, WIDE, rms_norm_eps=eps), torch.Generator().manual_seed(5)
    chosen = {w: torch.randperm(WIDE[w], generator=draw)[: NARROW[w]].sort().values for w in WIDE}
    shorter, small = sqrt(NARROW["hidden"] / WIDE["hidden"]), dict(narrow.named_parameters())
    for name, x in wide.named_parameters():
        part, value = name.split(".")[-2], small[name].clone()
        at = [where(part, dim, chosen) for dim in range(x.dim())]
        gone = [torch.tensor(sorted(set(range(n)) - set(a.tolist()))).long() for n, a in zip(x.shape, at, strict=True)]
        if part in ("embed_tokens", "o_proj", "down_proj"):
            dim = 1 if part == "embed_tokens" else 0
            x.index_fill_(dim, gone[dim], 0)
        if part in silent:
            dim = 1 if part in ("o_proj", "down_proj") and x.dim() == 2 else 0
            x.index_fill_(dim, gone[dim], 0)
        if family == "gemma" and part == "embed_tokens":
            value *= shorter  # the model multiplies them by the root of its width; and its head is the same matrix
        elif part.endswith("norm") and part not in ("q_norm", "k_norm") and (family, part) != ("gemma", "norm"):
            one = 1 if family == "gemma" else 0
            value = (value + one) * shorter - one
        x[at[0] if x.dim() == 1 else (at[0][:, None], at[1])] = value
    return wide


UNREAD, UNWRITTEN = ("o_proj", "down_proj"), ("v_proj", "qkv_proj", "up_proj", "gate_up_proj")


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_has_no_effect_is_taken_out_without_a_trace(workshop, family, repair):
    narrow = model(family)
    wide = padded(narrow, family, UNREAD if repair else UNWRITTEN)
    assert apart(drawn_logits(wide), drawn_logits(narrow)) < 1e-5  # or the test itself is wrong
    made = workshop.run("narrow", given(workshop, wide), workshop.rows(*TEXTS), repair=repair, **NARROW, **FEW)
    assert apart(drawn_logits(opened(made)), drawn_logits(narrow)) < 1e-5
    config = opened(made).config
    assert (config.hidden_size, config.intermediate_size, config.num_key_value_heads) == (32, 48, 2)
    assert (config.num_attention_heads, config.head_dim) == (4, 8)
    assert config.rms_norm_eps == pytest.approx(narrow.config.rms_norm_eps)
    assert made.facts["weights"] == narrow.num_parameters() < made.facts["weights_before"] == wide.num_parameters()


@pytest.mark.parametrize("repair", [False, True])
def test_nothing_taken_out_is_the_same_model(workshop, repair):
    source = workshop.model()
    whole = {"ffn": "100%", "hidden": 32, "kv_groups": 1.0}
    made = workshop.run("narrow", source, workshop.rows(*TEXTS), repair=repair, **whole, **FEW)
    before, after = (load_weights(each).state_dict() for each in (source, made))
    assert before.keys() == after.keys()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


@torch.no_grad()
def test_what_is_left_computes_what_the_whole_does_without_the_rest():
    """The inner channels and heads that go are zeroed on the way, in the model as it was."""
    whole, widths = model("qwen3"), {"ffn": 16, "kv_groups": 1}
    ids = torch.randint(tiny.VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(0))
    narrowing = Narrowing.of(whole, widths, ids, CPU)

    def without(width: str, n: int, each: int):
        def hook(_, args):
            gate = torch.zeros(args[0].shape[-1] // each)
            gate[narrowing.kept[width, f"model.layers.{n}"]] = 1
            return (args[0] * gate.repeat_interleave(each),)

        return hook

    hooks = [
        matrix.register_forward_pre_hook(without(width, n, each))
        for n, layer in enumerate(whole.model.layers)
        for matrix, width, each in ((layer.mlp.down_proj, "ffn", 1), (layer.self_attn.o_proj, "kv_groups", 16))
    ]
    expected = drawn_logits(whole)
    for hook in hooks:
        hook.remove()
    assert apart(drawn_logits(whole), expected) > 0.1
    narrowing.close()
    assert apart(drawn_logits(cut(whole, narrowing.axes, narrowing.kept, widths)), expected) < 1e-5


@torch.no_grad()
def test_those_stay_that_bring_most():
    """Channels that are made loud: by what is read, by what it is read with, and by what norms write."""
    whole, ids = model("mistral"), torch.arange(96).view(3, 32)
    loud = {"ffn": [3, 40], "kv_groups": [1], "hidden": [0, 7, 30]}
    layer = whole.model.layers[1]
    layer.mlp.up_proj.weight[3] *= 50
    layer.mlp.down_proj.weight[:, 40] *= 50
    layer.self_attn.v_proj.weight[8:16] *= 50
    for norm in (layer.input_layernorm, whole.model.norm):
        norm.weight[loud["hidden"]] = 50
    kept = Narrowing.of(whole, {width: len(each) for width, each in loud.items()}, ids, CPU).kept
    assert kept["ffn", "model.layers.1"].tolist() == loud["ffn"]
    assert kept["kv_groups", "model.layers.1"].tolist() == loud["kv_groups"]
    assert kept["hidden", ""].tolist() == loud["hidden"]


def test_the_first_of_equals_stays():
    assert largest(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2).tolist() == [1, 2]


@torch.no_grad()
def test_what_stays_makes_up_for_its_twins(tmp_path):
    """Every inner channel has a twin that goes: what that brought can be given by the one that stays, and is."""
    whole, ids = model(), torch.randint(tiny.VOCABULARY, (8, 32), generator=torch.Generator().manual_seed(0))
    for layer in whole.model.layers:
        for matrix in (layer.mlp.gate_proj, layer.mlp.up_proj):
            matrix.weight[24:], matrix.bias[24:] = matrix.weight[:24].clone(), matrix.bias[:24].clone()
    expected, state, kl = drawn_logits(whole), deepcopy(whole.state_dict()), {}
    kept = {("ffn", f"model.layers.{n}"): torch.arange(24) for n in range(2)}
    for repair in (False, True):
        whole.load_state_dict(state)
        narrowing = Narrowing(whole, axes(whole, {"ffn": 24}), kept)
        narrowing.repair(ids, CPU, Job(tmp_path, tmp_path)) if repair else narrowing.close()
        narrow = cut(whole, narrowing.axes, kept, {"ffn": 24})
        kl[repair] = float(plain_divergence(drawn_logits(narrow), expected).mean())
    assert kl[True] < kl[False] / 20


def test_a_killed_run_goes_on_behind_the_last_layer(workshop, tmp_path):
    source, rows = given(workshop, model("gemma", WIDE)), workshop.rows(*TEXTS)
    stage = workshop.stage("narrow", rows, **NARROW, **FEW)
    whole, parts, scratch, other = (tmp_path / name for name in ("whole", "parts", "scratch", "other"))
    for folder in (whole, parts, scratch, other):
        folder.mkdir()
    stage.run(Job(whole, other), model=source, data=rows)
    with pytest.raises(Stopped, match="Stopped after layer 1 of 2"):
        stage.run(Job(parts, scratch, stop=lambda: True), model=source, data=rows)
    stage.run(Job(parts, scratch), model=source, data=rows)
    for name in ("model.safetensors", "config.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def tiny_of(config, causal, **more):
    sizes = {"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return causal(config(**sizes, **heads, pad_token_id=1, initializer_range=0.3, **more)).eval()


MORE = {
    "Qwen2": (("ffn", "hidden", "kv_groups"), {}),
    "Gemma2": (("ffn", "hidden", "kv_groups"), {"head_dim": 8}),
    "Gemma3": (("ffn", "hidden", "kv_groups"), {"head_dim": 8}),
    "Granite": (("ffn", "hidden", "kv_groups"), {"embedding_multiplier": 3.0}),
    "SmolLM3": (("ffn", "hidden", "kv_groups"), {}),
    "Olmo2": (("ffn", "hidden"), {"rms_norm_eps": 1e-9}),
    "Phi": (("ffn", "kv_groups"), {}),
    "Starcoder2": (("ffn", "kv_groups"), {}),
    "Cohere": (("ffn", "kv_groups"), {}),
    "GPTNeoX": (("ffn",), {}),
}


@pytest.mark.parametrize("family", MORE)
def test_other_families_are_cut_to_what_was_left(family):
    """What has been made to have no effect can go, and nothing else changes."""
    wanted, more = MORE[family]
    config = hf.Gemma3TextConfig if family == "Gemma3" else getattr(hf, f"{family}Config")
    whole = tiny_of(config, getattr(hf, f"{family}ForCausalLM"), **more)
    widths = {width: {"ffn": 24, "hidden": 16, "kv_groups": 1}[width] for width in wanted}
    narrowing = Narrowing.of(whole, widths, torch.arange(64).view(2, 32), CPU)
    before = drawn_logits(whole)
    narrowing.close()
    left = drawn_logits(whole)
    assert apart(left, before) > 0.1
    assert apart(drawn_logits(cut(whole, narrowing.axes, narrowing.kept, widths)), left) < 1e-4


@pytest.mark.parametrize(
    ("size", "whole", "multiple", "n"),
    [(0.3, 100, 8, 32), (0.99, 100, 8, 96), (1.0, 100, 8, 100), (0.01, 100, 8, 8), (30, 100, 8, 30), (0.5, 3, 1, 2)],
)
def test_shares_are_rounded_and_numbers_are_not(size, whole, multiple, n):
    assert rounded(size, whole, multiple) == n


def test_a_share_of_the_stream_is_one_that_transformers_opens(workshop):
    """A Llama's width must be a multiple of its heads: 60 % of 48 is 28.8, and with three pairs of heads 30."""
    made = workshop.run(
        "narrow", given(workshop, model("llama", WIDE)), workshop.rows(*TEXTS), hidden="60%", multiple=1, **FEW
    )
    assert opened(made).config.hidden_size == made.facts["hidden"] == 30


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "nothing would become narrower"),
        ({"ffn": "0%"}, "write a share such as `50%`"),
        ({"ffn": 1.5}, "write a share such as `50%`"),
        ({"hidden": -1}, "write a share such as `50%`"),
    ],
)
def test_sizes_that_are_none_are_refused(workshop, options, told):
    with pytest.raises(ValidationError, match=told):
        workshop.stage("narrow", workshop.rows(*TEXTS), **options)


@pytest.mark.parametrize(
    ("weights", "options", "told"),
    [
        (model, {"ffn": 64}, "`ffn` is 48, and 64 is more"),
        (
            lambda: model("llama", WIDE),
            {"kv_groups": 2, "hidden": 46},
            "a multiple of the query heads, 2 for each group",
        ),
        (lambda: tiny.model("gpt2"), {"ffn": "50%"}, "name a Llama"),
        (lambda: tiny.model("gpt_neox"), {"hidden": 24}, "Leave `hidden` out"),
        (lambda: tiny.model("gpt_neox"), {"kv_groups": 1}, "Leave `kv_groups` out"),
        (tiny.encoder_decoder, {"ffn": "50%"}, "Name a decoder"),
    ],
)
def test_what_cannot_be_made_narrower_is_told(workshop, weights, options, told):
    with pytest.raises(ModelError, match=told):
        workshop.run("narrow", given(workshop, weights()), workshop.rows(*TEXTS), **options, **FEW)


@pytest.mark.parametrize(
    ("weights", "options", "told"),
    [
        (
            lambda: tiny_of(hf.MixtralConfig, hf.MixtralForCausalLM, num_local_experts=2),
            {"ffn": 24},
            "mixtures of experts",
        ),
        (lambda: tiny_of(hf.Starcoder2Config, hf.Starcoder2ForCausalLM), {"hidden": 16}, "no root-mean-square norm"),
        (lambda: tiny_of(hf.OlmoConfig, hf.OlmoForCausalLM), {"hidden": 16}, "no root-mean-square norm"),
        (lambda: tiny_of(hf.Olmo2Config, hf.Olmo2ForCausalLM), {"kv_groups": 1}, "a norm over all heads together"),
        (
            lambda: tiny_of(hf.HeliumConfig, hf.HeliumForCausalLM, head_dim=8),
            {"hidden": 16},
            "follows its `hidden` on both sides",
        ),
    ],
)
def test_other_kinds_of_decoders_are_told(workshop, weights, options, told):
    with pytest.raises(ModelError, match=told):
        workshop.run("narrow", given(workshop, weights()), workshop.rows(*TEXTS), **options, **FEW)


LEARNT = {"batch_size": 16, "learning_rate": 2e-4, "data": {"path": "lab:chat/train", "take": 1500}}
NARROWED = {"ffn": "50%", "hidden": "75%", "data": "lab:chat/train", "sequences": 32, "length": 256}
HEALED = {
    "model": "lab",
    "measure": [{"fidelity": {"data": "lab:chat/test", "against": "sft"}}],
    "stages": [
        {"sft": {"data": "lab:chat/train", "learning_rate": 1e-3, "batch_size": 16}},
        {"narrow": {"name": "plain", "repair": False, **NARROWED}},
        {"narrow": {"name": "narrowed", "from": "sft", **NARROWED}},
        {"distill": {"name": "healed", "teacher": "sft", **LEARNT}},
        {"sft": {"name": "labelled", "from": "narrowed", **LEARNT}},
    ],
}


@pytest.mark.slow
def test_repair_and_the_whole_model_heal_what_was_taken_out(tmp_path):
    """Repair alone takes most of the divergence away, the whole model more of it; labels lead away from it."""
    for seed in SEEDS:
        record = pt.run({**HEALED, "seed": seed}, out=tmp_path).record
        names = [each.name for each in record.models if each.name != "base"]
        kl = {name: record.model(name).findings["fidelity"].metrics["kl"].value for name in names}
        print("NARROWED", kl)
        assert kl["plain"] > 3 * kl["narrowed"] > 3.3 * kl["healed"]
        assert kl["labelled"] > kl["healed"]
