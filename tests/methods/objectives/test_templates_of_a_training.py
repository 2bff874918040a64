"""A model gets the chat template that is named, keeps its own, or as a base model gets ChatML with tokens of its own."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from posttrain.data.batch import Batch
from posttrain.engine.method import stage_class
from posttrain.engine.speaking import Speaking
from posttrain.functional.layout import Branch, Tree
from posttrain.models.load import load_format, load_policy, load_tokenizer
from posttrain.models.vocabulary import make_room
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Message, Prompt
from posttrain.schema.settings import keyed
from tests import tiny

N = 262  # tokens of the tiny tokenizer
NEW = ["<|im_start|>", "<|im_end|>"]
ROWS = tuple({"prompt": f"say {n}", "completion": word} for n, word in enumerate(("one", "two", "three", "four")))
PAIRS = tuple({"prompt": f"say {n}", "chosen": "yes", "rejected": "no"} for n in range(4))
FAST = {"learning_rate": 0.01, "steps": 3}


def base_of(workshop: Any, family: str = "llama", **changes: Any) -> Model:
    """A base model whose tokenizer has no chat template; its tables are as long as its vocabulary."""
    folder = workshop.folder / f"base-{family}"
    tiny.model(family, **{"vocab_size": N, **changes}).save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return workshop.store.model(str(folder))


def tables(model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    weights = AutoModelForCausalLM.from_pretrained(model.path)
    return weights.get_input_embeddings().weight.detach(), weights.get_output_embeddings().weight.detach()


TREES = (Tree((5, N, 20, N + 1), (Branch((30, N + 1), (True, True)),)), Tree((N,), (Branch((7, 8), (True, True)),)))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "vocabulary"), [("llama", N), ("llama", 300), ("gpt2", N), ("gpt_neox", N)])
def test_a_base_model_gets_chatml_and_rows_for_its_tokens(workshop, family: str, vocabulary: int):
    base = base_of(workshop, family, vocab_size=vocabulary)
    made = workshop.run("sft", base, workshop.rows(*ROWS), **FAST)
    tokenizer = load_tokenizer(made)
    assert tokenizer.convert_tokens_to_ids(NEW) == [N, N + 1]
    form = load_format(made, tokenizer)
    asked = form.ask(Prompt((Message("user", "say 1"),)))
    assert tokenizer.decode(asked) == "<|im_start|>user\nsay 1<|im_end|>\n<|im_start|>assistant\n"
    assert asked.count(N) == 2 and N + 1 in form.stop_ids
    before, after = tables(base), tables(made)
    for old, new in zip(before, after, strict=True):
        assert new.shape == (max(vocabulary, N + 2), 32)
        mean = old[:N].mean(0)
        assert (new[N + 1] - mean).abs().max() < 0.1, "the new row began as the mean"
        assert not torch.equal(new[N + 1], mean), "and was trained"
    assert N + 1 in load_policy(made).model.generation_config.eos_token_id


def test_the_new_rows_are_the_mean_and_nothing_is_drawn():
    state = torch.random.get_rng_state()
    model = tiny.model(vocab_size=N)
    old = [layer.weight.detach().clone() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    state = torch.random.get_rng_state()
    make_room(model, [N, N + 1])
    assert torch.equal(torch.random.get_rng_state(), state)
    for layer, before in zip((model.get_input_embeddings(), model.get_output_embeddings()), old, strict=True):
        assert torch.equal(layer.weight[:N], before)
        assert torch.equal(layer.weight[N:], before.mean(0).expand(2, -1))
    assert model.config.vocab_size == N + 2


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("adapter", [{"lora": {"rank": 4}}, {"lora": {"rank": 4, "init": "pissa"}}])
def test_lora_learns_the_new_tokens_saves_them_and_merges(workshop, adapter: Any, tied: bool):
    base = base_of(workshop, tie_word_embeddings=tied)
    made = workshop.run("sft", base, workshop.rows(*ROWS), adapter=adapter, **FAST)
    policy = load_policy(made)
    assert policy.layout == "packed", policy.why
    said = policy.score(Batch(TREES))
    merged = workshop.run("merge", made)
    assert torch.allclose(load_policy(merged).score(Batch(TREES)), said, atol=1e-4)
    rows = tables(merged)[0]
    assert len(rows) == N + 2
    assert not torch.equal(rows[N], rows[N + 1]), "both tokens were trained"
    again = workshop.run("sft", made, workshop.rows(*ROWS), **FAST)
    assert not torch.allclose(load_policy(again).score(Batch(TREES)), said, atol=1e-3), "it can be trained further"


def test_plain_peft_loads_the_adapter_on_a_base_with_room(workshop):
    base = base_of(workshop)
    made = workshop.run("sft", base, workshop.rows(*ROWS), adapter="lora", **FAST)
    plain = AutoModelForCausalLM.from_pretrained(base.path)
    plain.resize_token_embeddings(N + 2)
    adapted = PeftModel.from_pretrained(plain, str(made.path)).eval()
    ids = torch.tensor([[5, N, 20, N + 1, 30]])
    ours = load_policy(made).model
    with torch.no_grad():
        assert torch.allclose(adapted(ids).logits, ours(ids).logits, atol=1e-5)


@pytest.mark.slow
def test_dpo_on_a_base_model_begins_at_its_reference(workshop):
    for adapter in (None, "lora"):
        options = {"steps": 1, "batch_size": 4, **({"adapter": adapter} if adapter else {})}
        made = workshop.run("dpo", base_of(workshop), workshop.rows(*PAIRS), **options)
        assert made.facts["final"]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_an_adapter_that_cannot_learn_tokens_gets_the_plain_layout(workshop):
    base, rows = base_of(workshop), workshop.rows(*ROWS)
    made = workshop.run("sft", base, rows, adapter={"prompt": {"tokens": 4}}, **FAST)
    tokenizer = load_tokenizer(made)
    assert len(tokenizer) == N
    assert "Assistant:" in tokenizer.chat_template
    with pytest.raises(ModelError, match="what is trained here cannot learn them"):
        workshop.run("sft", base, rows, adapter={"prompt": {"tokens": 4}}, chat_template="chatml", **FAST)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "alpaca", "vicuna", "zephyr"])
def test_layouts_of_plain_text_need_no_token(workshop, name: str):
    made = workshop.run("sft", base_of(workshop), workshop.rows(*ROWS), chat_template=name, **FAST)
    assert len(load_tokenizer(made)) == N
    assert made.facts["chat_template"] == name


def test_a_model_keeps_its_own_template_unless_another_is_named(workshop):
    rows, base = workshop.rows(*ROWS), workshop.model()
    kept = workshop.run("sft", base, rows, **FAST)
    assert load_tokenizer(kept).chat_template == tiny.CHAT
    assert len(load_tokenizer(kept)) == N
    assert kept.facts["chat_template"] == "of your own"
    other = workshop.run("sft", base, rows, chat_template="llama3", **FAST)
    assert "<|start_header_id|>" in load_tokenizer(other).chat_template
    assert len(load_tokenizer(other)) == N + 3


def test_a_file_of_a_template_stands_in_the_settings_as_its_text(workshop):
    path = workshop.folder / "mine.jinja"
    path.write_text("{#- tokens: <|end|> <|mine|> -#}{% for m in messages %}<|mine|>{{ m.content }}<|end|>{% endfor %}")
    stage = stage_class("sft")(data="x", chat_template=str(path))
    assert keyed(stage)["chat_template"] == path.read_text()
    assert stage_class("sft").model_validate(keyed(stage) | {"data": "x"}).chat_template == path.read_text()
    made = workshop.run("sft", base_of(workshop), workshop.rows(*ROWS), chat_template=str(path), **FAST)
    tokenizer = load_tokenizer(made)
    assert tokenizer.convert_tokens_to_ids("<|mine|>") == N
    form = load_format(made, tokenizer)
    assert tokenizer.decode(form.ask(Prompt((Message("user", "hi"),)))) == "<|mine|>hi<|end|>"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("alpacca", "there is no layout 'alpacca'. Did you mean 'alpaca'?"),
        ("nowhere.jinja", "nowhere.jinja cannot be read"),
        ("plain.txt", "is no Jinja template"),
    ],
)
def test_a_template_that_is_none_is_refused(said: str, message: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("plain.txt").write_text("Hello")
    with pytest.raises(ValidationError) as caught:
        Speaking(chat_template=said)
    assert message in str(caught.value)


def test_a_stage_on_texts_leaves_a_base_model_without_template(workshop):
    tokenizer = load_tokenizer(base_of(workshop))
    model = tiny.model(vocab_size=N)
    assert Speaking().dressed(model, tokenizer, chats=False, grows=True).name == ""
    assert tokenizer.chat_template is None and len(model.get_input_embeddings().weight) == N
