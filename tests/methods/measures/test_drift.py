"""Drift against exact sums over a vocabulary, and what answers earn against what they are scored with."""

import json

import pytest
import torch

import posttrain as pt
from posttrain.data.batch import Batch
from posttrain.data.trees import plant
from posttrain.models.load import load_format, load_policy, load_scorer, load_tokenizer
from posttrain.pipeline.plan import load
from posttrain.report.compare import compare
from posttrain.schema.errors import DataError, ModelError, RecipeError
from posttrain.schema.record import ModelRecord
from posttrain.schema.rows import Conversation, Message, Prompt
from tests import tiny

ONE = {"prompt": "say a word", "answer": "ab"}
LESSONS = [{"prompt": f"say {word}", "completion": "yes"} for word in ("abc", "xyz", "no", "tuv")]
ASKED = [{"prompt": f"say {n}", "answer": "yes"} for n in range(30)]
PAIRS = [{"prompt": f"say {n}", "chosen": "yes", "rejected": "no no"} for n in range(30, 40)]


def drift(workshop, model, against, rows, reward_model=None, **options):
    inputs = {"against": against, **({"reward.model": reward_model} if reward_model else {})}
    options = {"against": "given", "max_new_tokens": 8, **options}
    return workshop.findings("drift", model, workshop.rows(*rows), inputs=inputs, **options)


@pytest.fixture
def taught(workshop):
    return workshop.run("sft", workshop.model(), workshop.rows(*LESSONS), learning_rate=1e-2, steps=30)


@torch.no_grad()
def next_token_kl(one, other, temperature):
    """Exactly, over the whole vocabulary: what the first token of an answer to the one prompt may be."""
    policy, reference = load_policy(one), load_policy(other)
    asked = load_format(one, policy.tokenizer).ask(Prompt((Message("user", ONE["prompt"]),)))
    p, q = (
        (m.model(input_ids=torch.tensor([asked])).logits[0, -1].double() / temperature).log_softmax(-1)
        for m in (policy, reference)
    )
    return float((p.exp() * (p - q)).sum())


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_kl_is_the_sum_over_the_vocabulary_that_it_estimates(workshop, temperature):
    one, other = workshop.model(0), workshop.model(1)
    wanted = next_token_kl(one, other, temperature)
    found = drift(workshop, one, other, [ONE] * 1500, max_new_tokens=1, temperature=temperature).metrics
    width = found["kl"].high - found["kl"].low
    assert wanted > 0.5 and width < 0.5 * wanted
    assert found["kl"].value == pytest.approx(wanted, abs=width)
    assert found["kl_per_token"].value == pytest.approx(found["kl"].value) and found["tokens"].value == 1


def test_a_model_never_drifts_from_itself(workshop, taught):
    found = drift(workshop, taught, taught, ASKED[:6]).metrics
    copy = workshop.store.model(str(copied(workshop, taught)))
    again = drift(workshop, taught, copy, ASKED[:6]).metrics
    for metrics in (found, again):
        assert (metrics["kl"].value, metrics["kl_per_token"].value) == pytest.approx((0, 0), abs=1e-6)


def copied(workshop, model):
    folder = workshop.folder / "copy"
    load_policy(model).model.save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_what_training_moved_is_seen(workshop, taught):
    """Every answer ends now, and is shorter; going back from the trained model is another divergence."""
    base = workshop.model()
    there, back = drift(workshop, taught, base, ASKED).metrics, drift(workshop, base, taught, ASKED).metrics
    assert there["kl"].low > 1 and back["kl"].low > 1 and there["kl"].value != back["kl"].value
    assert there["finished"].value > back["finished"].value
    assert there["tokens"].value < back["tokens"].value == pytest.approx(8, abs=1)
    assert there["kl_per_token"].value == pytest.approx(there["kl"].value / there["tokens"].value)
    assert there["kl"].better == "none"


def test_without_rewards_a_rows_score_is_its_drift(workshop, taught):
    found = drift(workshop, taught, workshop.model(), ASKED)
    assert sum(sample.score for sample in found.samples) / len(ASKED) == pytest.approx(found.metrics["kl"].value)
    assert "reward" not in found.metrics and found.samples[0].prompt == "say 0"


def test_rewards_make_win_rates(workshop, taught):
    reward = {"functions": ["exact"]}
    found = {
        name: drift(workshop, model, workshop.model(), ASKED, reward=reward)
        for name, model in (("base", workshop.model()), ("taught", taught))
    }
    assert found["base"].metrics["reward"].value == 0.0 and found["taught"].metrics["reward"].value > 0.7
    assert [s.score for s in found["taught"].samples] == [float(s.output == "yes") for s in found["taught"].samples]
    records = [ModelRecord(name, name, "", "dense", 1, {"drift": each}) for name, each in found.items()]
    (contrast,) = compare(*records).contrasts
    assert contrast.wins.value > 0.8
    assert compare(*records).change("drift", "reward").verdict == "better"
    assert compare(*records).change("drift", "reward").paired


@pytest.mark.slow
def test_a_reward_model_scores_what_was_written(workshop, taught):
    judge = workshop.run("reward", workshop.model(), workshop.rows(*PAIRS), learning_rate=3e-3, steps=20, batch_size=4)
    found = drift(workshop, taught, workshop.model(), ASKED, judge, reward={"model": "given"})
    scorer = load_scorer(judge)
    said = [(Message("user", s.prompt), Message("assistant", s.output)) for s in found.samples]
    ended = [s.output == "yes" for s in found.samples]  # those that were cut are scored without an end
    assert sum(ended) > 20
    trees = plant([Conversation(turns) for turns in said], load_format(judge, scorer.tokenizer), 512)
    with torch.no_grad():
        wanted = scorer.rewards(Batch(trees)).tolist()
    for sample, score, whole in zip(found.samples, wanted, ended, strict=True):
        assert not whole or sample.score == pytest.approx(score, abs=1e-4)
    assert found.metrics["reward"].value == pytest.approx(sum(s.score for s in found.samples) / 30)


def test_parts_of_a_reward_are_told_too(workshop, taught):
    reward = {"functions": [{"exact": {"weight": 2}}, "tests.methods.measures.test_drift:half"]}
    found = drift(workshop, taught, workshop.model(), ASKED, reward=reward).metrics
    parts = [found["reward/exact"].value, found["reward/half"].value]
    assert parts[1] == 0.5
    assert found["reward"].value == pytest.approx(2 * parts[0] + parts[1])


def half(output, row):
    return 0.5


def even(output, row):
    return 1.0 if int(row["prompt"].split()[-1]) % 2 == 0 else None


def never(output, row):
    return None


@pytest.mark.slow
def test_answers_without_a_verdict_are_left_out_and_counted(workshop, taught):
    named = "tests.methods.measures.test_drift:{}"
    found = drift(workshop, taught, workshop.model(), ASKED, reward={"functions": named.format("even")})
    assert found.notes["without_verdict"] == 15 and len(found.samples) == 15
    assert found.metrics["reward"].n == 15 and found.metrics["kl"].n == 30
    with pytest.raises(DataError, match=r"No answer got a verdict from .*never"):
        drift(workshop, taught, workshop.model(), ASKED, reward={"functions": named.format("never")})


@pytest.mark.slow
def test_an_adapter_is_held_against_its_base_and_a_model_with_a_prompt_program_is_read(workshop):
    base = workshop.model()
    tuned = workshop.run(
        "sft", base, workshop.rows(*LESSONS), learning_rate=3e-2, steps=10, adapter={"lora": {"rank": 4}}
    )
    assert drift(workshop, tuned, base, ASKED[:10]).metrics["kl"].low > 0.1
    examples = workshop.rows({"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "d"})
    shown = workshop.run("few_shot", base, examples, k=2)
    judge = workshop.run("reward", base, workshop.rows(*PAIRS), learning_rate=3e-3, steps=10, batch_size=4)
    found = drift(workshop, shown, base, ASKED[:10], judge, reward={"model": "given"})
    assert found.metrics["kl"].value == pytest.approx(0, abs=1e-5)  # the same weights, asked the same
    scorer = load_scorer(judge)
    first = found.samples[0]
    turns = (Message("user", first.prompt), Message("assistant", first.output))
    with torch.no_grad():  # the judge reads the question and the answer, and no examples
        (tree,) = plant([Conversation(turns)], load_format(judge, scorer.tokenizer), 512)
        assert first.score == pytest.approx(float(scorer.rewards(Batch((tree,)))), abs=1e-4)


def test_tokens_that_are_new_since_then_are_average_ones(workshop):
    """A base model is given ChatML's tokens; it reads them as its training did before its first step."""
    folder = workshop.folder / "bare"
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    tiny.model(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    base = workshop.store.model(str(folder))
    tuned = workshop.run("sft", base, workshop.rows(*LESSONS), learning_rate=1e-9, steps=1)
    assert len(load_tokenizer(tuned)) > len(tokenizer)
    assert drift(workshop, tuned, base, ASKED[:10]).metrics["kl"].value == pytest.approx(0, abs=1e-4)


def test_a_model_of_other_tokens_cannot_read_answers(workshop, taught):
    folder = workshop.folder / "other"
    tokenizer = json.loads((taught.path / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    load_policy(taught).model.save_pretrained(folder)
    load_tokenizer(taught).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match=r"has another tokenizer.*Hold it `against` a model that it was made from"):
        drift(workshop, taught, workshop.store.model(str(folder)), ASKED[:2])


@pytest.mark.slow
def test_the_same_seed_draws_the_same_answers(workshop):
    base, other = workshop.model(), workshop.model(1)
    first, longer, redrawn = (
        [s.output for s in drift(workshop, base, other, ASKED, seed=seed, max_new_tokens=n).samples]
        for seed, n in ((0, 8), (0, 12), (1, 8))
    )
    assert all(b.startswith(a[:4]) for a, b in zip(first, longer, strict=True))
    assert sum(a == b for a, b in zip(first, redrawn, strict=True)) < 3


@pytest.mark.slow
def test_a_recipe_names_its_stages_and_is_held_to_a_drift(workshop, tmp_path):
    files = {
        name: str(workshop.rows(*rows)[0].path / next(iter(workshop.rows(*rows)[0].files)))
        for name, rows in {"chat": LESSONS, "pairs": PAIRS, "asked": ASKED}.items()
    }
    measure = {"data": files["asked"], "against": "sft", "reward": {"model": "judge"}, "max_new_tokens": 4}
    recipe = {
        "name": "drift", "model": str(workshop.model().path), "measure": [{"drift": measure}],
        "stages": [
            {"sft": {"data": files["chat"], "steps": 2}},
            {"reward": {"name": "judge", "data": files["pairs"], "steps": 2}},
            {"dpo": {"from": "sft", "data": files["pairs"], "learning_rate": 1e-2, "steps": 5,
                     "gate": {"drift.kl": {"at_most": 1e-3}}}},
            {"sft": {"name": "never", "data": files["chat"], "steps": 1}},
        ],
    }  # fmt: skip
    ran = pt.run(recipe, out=tmp_path)
    found = {model.name: model.findings["drift"].metrics for model in ran.record.models if model.findings}
    assert list(found) == ["base", "sft", "dpo"]
    assert found["sft"]["kl"].value == pytest.approx(0, abs=1e-6) and found["dpo"]["kl"].value > 1e-3
    assert ran.gates_failed and ran.record.stages[3].state == "not reached"
    assert all("reward" in metrics for metrics in found.values())


def test_a_gate_before_the_reward_model_is_refused():
    text = """name: drift
model: lab
measure: [drift: {data: lab:chat/test, against: sft, reward: {model: reward}}]
stages:
  - sft: {data: lab:chat/train, gate: {drift.kl: {at_most: 1}}}
  - reward: {data: lab:pairs/train}
"""
    with pytest.raises(RecipeError, match="'drift' reads 'reward', which is made later"):
        load(text)
