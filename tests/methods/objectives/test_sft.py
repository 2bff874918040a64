"""SFT learns the answers, only the answers, and ships a model that other programs open."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.data.batch import Batch
from posttrain.functional.layout import Branch, Tree
from posttrain.methods.objectives.sft import SFT
from posttrain.models.load import load_policy
from posttrain.models.policy import Models, Policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.schema.errors import DataError, ModelError
from tests import tiny

LESSONS = [{"prompt": f"say {word}", "completion": word[::-1]} for word in ("abc", "xyz", "no", "tuv")]
HARD = {"learning_rate": 1e-2, "steps": 60, "batch_size": 4, "schedule": "constant"}


def test_the_loss_is_the_mean_over_all_answer_tokens():
    policy = Policy(tiny.model(), tiny.tokenizer())
    batch = Batch(tiny.trees(3, 1))
    total = batch.counts()
    loss, _ = SFT().loss(Models(policy), batch, total)
    by_hand = torch.cat([-policy.logps(Batch((tree,))) for tree in batch.trees])
    assert len(by_hand) == total.tokens
    assert loss.item() == pytest.approx(by_hand.mean().item(), rel=1e-5)


def test_prompt_tokens_are_not_learnt():
    policy = Policy(tiny.model(), tiny.tokenizer())
    batch = Batch((Tree((5, 6, 7, 8), (Branch((9,), (True,)),)),))
    loss, _ = SFT().loss(Models(policy), batch, batch.counts())
    assert loss.item() == pytest.approx(-policy.logps(batch).item())


@pytest.mark.slow
def test_it_learns_what_it_is_shown_and_stops(workshop):
    base, data = workshop.model(), workshop.rows(*LESSONS)
    taught = workshop.run("sft", base, data, **HARD)
    found = workshop.findings(
        "benchmark", taught, workshop.rows(*[{"prompt": r["prompt"], "answer": r["completion"]} for r in LESSONS])
    )
    assert found.metrics["exact_match"].value == 1.0
    assert taught.facts["trained_tokens"] == sum(
        len(row["completion"]) + 1 for row in LESSONS
    )  # a byte a token, and the end


@pytest.mark.slow
def test_plain_transformers_opens_the_result(workshop):
    taught = workshop.run("sft", workshop.model(), workshop.rows(*LESSONS), **HARD)
    tokenizer = AutoTokenizer.from_pretrained(taught.path)
    model = AutoModelForCausalLM.from_pretrained(taught.path)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "say abc"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    told = model.generate(**ids, max_new_tokens=10, do_sample=False)
    assert tokenizer.decode(told[0, ids["input_ids"].shape[1] :], skip_special_tokens=True) == "cba"


@pytest.mark.slow
def test_an_adapter_is_small_and_merges_into_the_same_model(workshop):
    base, data = workshop.model(), workshop.rows(*LESSONS)
    adapted = workshop.run("sft", base, data, **HARD | {"adapter": {"lora": {"rank": 4}}})
    assert (adapted.form, adapted.base) == ("adapter", str(base.path))
    assert 0 < adapted.facts["trained_share"] < 0.5
    merged = workshop.run("merge", adapted)
    prompts = [[5, 6, 7], [8, 9]]
    texts = [
        TransformersSampler(load_policy(m), frozenset()).sample(prompts, Sampling(max_new_tokens=8))
        for m in (adapted, merged)
    ]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_training_goes_on_with_the_adapter_it_finds(workshop):
    data = workshop.rows(*LESSONS)
    first = workshop.run("sft", workshop.model(), data, **HARD | {"adapter": {"lora": {"rank": 2}}, "steps": 3})
    second = workshop.run("sft", first, data, **HARD | {"steps": 3})
    assert (second.form, second.base) == ("adapter", first.base)
    with pytest.raises(ModelError, match="put a `merge` stage before this one"):
        workshop.run("sft", first, data, **HARD | {"adapter": "lora"})


def test_rows_without_room_for_an_answer_are_counted_or_refused(workshop):
    data = workshop.rows(*LESSONS, {"prompt": "p" * 200, "completion": "x"})
    taught = workshop.run("sft", workshop.model(), data, **HARD | {"max_length": 40, "steps": 1})
    assert (taught.facts["rows"], taught.facts["rows_dropped"]) == (5, 1)
    with pytest.raises(DataError, match="Raise max_length"):
        workshop.run("sft", workshop.model(), data, **HARD | {"max_length": 4})


def test_same_seed_same_bytes_other_seed_other_bytes(workshop):
    base, data = workshop.model(), workshop.rows(*LESSONS)
    options = HARD | {"batch_size": 2, "steps": 4}
    one = workshop.run("sft", base, data, **options)
    other = workshop.run("sft", base, data, seed=1, **options)
    again = workshop.run("sft", base, data, **options | {"checkpoint_seconds": 0.0})
    assert again.digest == one.digest != other.digest


def test_rows_are_cut_to_what_the_model_reads(workshop):
    long = workshop.rows({"prompt": "p", "completion": "c" * 900})
    taught = workshop.run("sft", workshop.model(), long, learning_rate=1e-3, steps=1)
    assert taught.facts["rows_cut"] == 1
    assert taught.facts["trained_tokens"] < 512  # the tiny model's context, though max_length is 1024
