"""Fewer layers: what is kept computes what it did, other programs open it, and the choice is by what layers change."""

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from posttrain.engine.method import stage_class
from posttrain.methods.transforms.keep_layers import spread
from posttrain.models.depth import changes, keep, layers_of
from posttrain.models.load import load_weights
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError
from tests import tiny

IDS = torch.arange(20, 60)[None]
ROWS = [{"prompt": f"say {word}", "completion": word} for word in ("abc", "xyz", "no")]
MORE = {
    "llama": {},
    "mistral": {},
    "gpt2": {},
    "gemma": {},
    "qwen3": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
}


def deep(workshop, family: str = "llama", layers: int = 4, **changes) -> Model:
    folder = workshop.folder / f"deep-{family}"
    tiny.model(family, num_hidden_layers=layers, **MORE[family], **changes).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return workshop.store.model(str(folder))


@torch.no_grad()
def by_hand(model, kept) -> torch.Tensor:
    """Logits with the other layers passed by."""
    for n, layer in enumerate(layers_of(model)):
        if n not in kept:
            layer.forward = lambda hidden, *args, **kwargs: hidden
    return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("family", MORE)
def test_a_family_without_some_layers_is_what_transformers_opens(workshop, family):
    source = deep(workshop, family)
    made = workshop.run("keep_layers", source, layers=[0, 3])
    opened = AutoModelForCausalLM.from_pretrained(made.path, dtype=torch.float32)
    with torch.no_grad():
        found = opened(input_ids=IDS, use_cache=False).logits
    assert torch.allclose(found, by_hand(load_weights(source), (0, 3)), atol=1e-4)
    config, before = (AutoConfig.from_pretrained(each.path) for each in (made, source))
    assert config.num_hidden_layers == 2
    assert config.tie_word_embeddings == before.tie_word_embeddings
    if getattr(before, "layer_types", None):
        assert config.layer_types == [before.layer_types[0], before.layer_types[3]]
    assert made.facts["weights"] == sum(p.numel() for p in opened.parameters()) < made.facts["weights_before"]


def test_the_layers_of_a_family_differ_in_kind(workshop):
    assert AutoConfig.from_pretrained(deep(workshop, "qwen3").path).layer_types[0::3] == [
        "full_attention",
        "sliding_attention",
    ]


def test_tied_embeddings_stay_tied(workshop):
    made = workshop.run("keep_layers", deep(workshop, tie_word_embeddings=True), every=2)
    weights = load_weights(made)
    assert weights.get_input_embeddings().weight is weights.get_output_embeddings().weight


def test_what_comes_out_is_trained_and_answers_as_any_model(workshop):
    made = workshop.run("keep_layers", deep(workshop), every=2)
    taught = workshop.run("sft", made, workshop.rows(*ROWS), steps=2, batch_size=2)
    graded = workshop.rows(*({"prompt": row["prompt"], "answer": row["completion"]} for row in ROWS))
    assert workshop.findings("benchmark", taught, graded, max_new_tokens=4).metrics["exact_match"].n == len(ROWS)


@pytest.mark.parametrize(
    ("n", "kept", "places"), [(4, 2, [0, 3]), (12, 4, [0, 4, 7, 11]), (32, 1, [0]), (5, 5, [0, 1, 2, 3, 4])]
)
def test_layers_are_spread(n, kept, places):
    assert spread(n, kept) == places


def without_effect(model, *numbers: int) -> None:
    """Makes layers write what they read, but for a trace."""
    for number in numbers:
        layer = layers_of(model)[number]
        for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):
            matrix.weight.data.mul_(1e-3)


def test_influence_by_hand():
    """A first layer that turns every state by a right angle, and a second that leaves it in its direction."""
    model = tiny.model(num_hidden_layers=2)
    model.model.embed_tokens.weight.data.zero_()[:, 0] = 1.0
    turned, longer = torch.zeros(32), torch.zeros(32)
    turned[1], longer[1] = 1.0, 2.0
    first, second = layers_of(model)
    first.forward = lambda hidden, *args, **kwargs: turned.expand_as(hidden)
    second.forward = lambda hidden, *args, **kwargs: longer.expand_as(hidden)
    assert changes(model, [[5, 6, 7], [8]]) == pytest.approx([1.0, 0.0], abs=1e-6)
    assert changes(model, [[5, 6, 7], [8]], span=2) == pytest.approx([1.0], abs=1e-6)


@pytest.mark.parametrize(("by", "kept"), [("influence", [0, 2, 4]), ("block", [0, 1, 4])])
def test_the_layers_that_change_least_are_left_out(workshop, by, kept):
    """Those that write what they read: 1 and 3 of five, or the neighbours 2 and 3."""
    folder = workshop.folder / by
    model = tiny.model(num_hidden_layers=5)
    without_effect(model, *((1, 3) if by == "influence" else (2, 3)))
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    made = workshop.run("keep_layers", workshop.store.model(str(folder)), workshop.rows(*ROWS), drop=2, by=by)
    assert made.facts["layers"] == kept
    assert len(made.facts["influence"]) == {"influence": 5, "block": 4}[by]


def test_plain_text_serves_too(workshop):
    made = workshop.run("keep_layers", deep(workshop), workshop.rows({"text": "a ship sails"}), drop=1)
    assert len(made.facts["layers"]) == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "one way to choose layers is wanted"),
        ({"every": 2, "layers": [0]}, "one way to choose layers is wanted"),
        ({"drop": 1}, "give `data` with it"),
        ({"every": 2, "data": "rows.jsonl"}, "and only then"),
    ],
)
def test_one_way_is_asked_for(options, told):
    with pytest.raises(ValidationError, match=told):
        stage_class("keep_layers")(**options)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"layers": [0, 4]}, "from 0 to 3"), ({"layers": [1, 1]}, "Name each once"), ({"drop": 4}, "1`")],
)
def test_layers_that_there_are_not_are_refused(workshop, options, told):
    rows = workshop.rows(*ROWS) if "drop" in options else ()
    with pytest.raises(ModelError, match=told):
        workshop.run("keep_layers", deep(workshop), rows, **options)


def test_a_model_without_one_row_of_layers_is_refused():
    with pytest.raises(ModelError, match="no single row of layers"):
        keep(tiny.encoder_decoder(), [0])


def test_layers_that_know_their_number_are_refused(workshop):
    """Qwen's mixture has experts in every second layer only, and says so by a step and not by a list."""
    folder = workshop.folder / "moe"
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    }
    heads = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 2}
    Qwen2MoeForCausalLM(
        Qwen2MoeConfig(vocab_size=tiny.VOCABULARY, decoder_sparse_step=2, num_experts_per_tok=1, **sizes, **heads)
    ).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    model = workshop.store.model(str(folder))
    assert workshop.run("keep_layers", model, layers=[0, 1]).facts["layers"] == [0, 1]
    with pytest.raises(ModelError, match="Take another model"):
        workshop.run("keep_layers", model, layers=[0, 2])
