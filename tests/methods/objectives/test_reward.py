"""A reward model by hand, and as plain transformers and PEFT load it."""

import json
import math
from dataclasses import replace

import peft
import pytest
import torch
import transformers as hf

from posttrain.data.batch import Batch
from posttrain.data.trees import plant
from posttrain.engine.job import Job
from posttrain.engine.loop import step_shares
from posttrain.engine.method import stage_class
from posttrain.functional.layout import Branch, Tree
from posttrain.methods.objectives.reward import Reward
from posttrain.models.load import load_format, load_scorer
from posttrain.models.policy import Models
from posttrain.models.scorer import Scorer
from posttrain.schema.artifacts import hash_of
from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Message, Ranked
from posttrain.schema.settings import problems
from tests import kinds, tiny
from tests.methods.objectives.pairs import PAIRS

RANKED = [
    {"prompt": f"rank {word}", "answers": [word[:n] for n in (4, 3, 2, 1)], "scores": [4.0, 3.0, 3.0, 1.0]}
    for word in ("abcd", "wxyz", "mnop")
]


def graded(tree: Tree, *grades: float) -> Tree:
    branches = zip(tree.branches, grades, strict=True)
    return Tree(tree.prompt, tuple(Branch(b.tokens, b.trained, grade) for b, grade in branches))


def batch_of(*grades: tuple[float, ...]) -> Batch:
    """A prompt for every row of grades."""
    return Batch(tuple(graded(tiny.trees(1, len(row), seed=n)[0], *row) for n, row in enumerate(grades)))


def models() -> Models:
    return Models(Scorer(tiny.reward_model(), tiny.tokenizer()))


@torch.no_grad()
def loss_of(objective: Reward, batch: Batch) -> tuple[float, dict[str, float], list[float]]:
    of = models()
    loss, metrics = objective.loss(of, batch, batch.counts())
    return loss.item(), {name: float(value) for name, value in metrics.items()}, of.policy.rewards(batch).tolist()


def surprise(margin: float) -> float:
    return math.log1p(math.exp(-margin))


def test_by_hand_on_one_pair():
    batch = batch_of((3.0, 1.0))
    for objective, wanted in {
        Reward(): lambda c, r: surprise(c - r),
        Reward(margin=0.7): lambda c, r: surprise(c - r - 0.7 * 2),
        Reward(centring=0.2): lambda c, r: surprise(c - r) + 0.2 * (c + r) ** 2,
        Reward(margin=0.7, centring=0.2): lambda c, r: surprise(c - r - 0.7 * 2) + 0.2 * (c + r) ** 2,
    }.items():
        loss, metrics, (chosen, rejected) = loss_of(objective, batch)
        assert abs(chosen - rejected) > 0.1
        assert loss == pytest.approx(wanted(chosen, rejected), rel=1e-4), objective
        assert metrics["margin"] == pytest.approx(chosen - rejected, rel=1e-4)
        assert metrics["accuracy"] == float(chosen > rejected)
        assert metrics["reward"] == pytest.approx((chosen + rejected) / 2, rel=1e-4)


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_a_pair_that_is_not_sure_counts_both_ways(margin):
    """By hand: cross-entropy with the row's probability."""
    (tree,) = batch_of((1.0, 0.0)).trees
    doubted = [replace(branch, chance=p) for branch, p in zip(tree.branches, (0.7, 0.3), strict=True)]
    batch = Batch((Tree(tree.prompt, tuple(doubted)),))
    loss, _, (chosen, rejected) = loss_of(Reward(margin=margin), batch)
    x = chosen - rejected - margin
    assert loss == pytest.approx(0.7 * surprise(x) + 0.3 * surprise(-x), rel=1e-4)
    assert abs(loss - surprise(x)) > 1e-3


@pytest.mark.slow
def test_rows_with_a_probability_are_learnt(workshop):
    """The best that scores can do with pairs of probability 0.7 is to lie log(0.7 / 0.3) apart."""
    rows = workshop.rows(*({**row, "probability": 0.7} for row in PAIRS))
    made = workshop.run("reward", workshop.model(), rows, learning_rate=1e-2, steps=60)
    assert made.facts["final"]["margin"] == pytest.approx(math.log(0.7 / 0.3), abs=0.15)


def test_ranked_answers_are_all_their_pairs_and_prompts_weigh_the_same():
    """A prompt with three answers has three pairs, a third of its weight each; the other prompt has one."""
    loss, metrics, scores = loss_of(Reward(), batch_of((3.0, 2.0, 1.0), (1.0, 0.0)))
    (a, x, b, y, c) = scores  # branch by branch
    three = (surprise(a - b) + surprise(a - c) + surprise(b - c)) / 3
    assert loss == pytest.approx((three + surprise(x - y)) / 2, rel=1e-4)
    right = ((a > b) + (a > c) + (b > c)) / 3
    assert metrics["accuracy"] == pytest.approx((right + (x > y)) / 2)
    assert metrics["reward"] == pytest.approx(sum(scores) / 5, rel=1e-4)


def test_answers_that_are_as_good_are_no_pair():
    """And the order in which answers stand says nothing: their grades do."""
    tied, _, (a, b, c) = loss_of(Reward(), batch_of((1.0, 2.0, 1.0)))
    assert tied == pytest.approx((surprise(b - a) + surprise(b - c)) / 2, rel=1e-4)


def test_a_cut_changes_no_gradient_where_prompts_have_unlike_numbers_of_answers():
    batch, objective = batch_of((3.0, 2.0, 1.0), (1.0, 0.0), (4.0, 1.0, 3.0, 2.0)), Reward(margin=0.2, centring=0.1)
    found = []
    for micro_tokens in (10**6, 1):
        of = models()
        shares = step_shares(of, objective, batch, micro_tokens)
        gradient = torch.cat([p.grad.flatten() for p in of.policy.trainable() if p.grad is not None])
        found.append((shares.sums, gradient))
    (whole, one), (parts, other) = found
    assert parts == pytest.approx(whole, rel=1e-4)
    assert (one - other).norm() < 1e-5 * one.norm()


def test_it_begins_with_all_answers_equal(workshop):
    made = workshop.run("reward", workshop.model(), workshop.rows(*PAIRS), learning_rate=1e-9, steps=1)
    assert made.facts["final"]["loss"] == pytest.approx(math.log(2), rel=1e-4)
    assert made.facts["final"]["reward"] == 0


def rewards(of: Scorer, model, rows) -> tuple[Batch, torch.Tensor]:
    batch = Batch(plant(rows, load_format(model, of.tokenizer), 512))
    with torch.no_grad():
        return batch, of.rewards(batch)


def as_ranked(rows) -> list[Ranked]:
    """Rows of text, best first."""

    def said(role: str, text: str) -> tuple[Message, ...]:
        return (Message(role, text),)

    answers = [row.get("answers") or [row["chosen"], row["rejected"]] for row in rows]
    return [
        Ranked(said("user", row["prompt"]), tuple(said("assistant", a) for a in each), tuple(range(len(each), 0, -1)))
        for row, each in zip(rows, answers, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [PAIRS, RANKED], ids=["pairs", "ranked"])
def test_it_learns_what_is_better(workshop, rows):
    made = workshop.run("reward", workshop.model(), workshop.rows(*rows), learning_rate=3e-3, steps=30, batch_size=4)
    assert made.form == "reward" and made.base is None
    assert made.facts["final"]["loss"] < math.log(2) / 2
    _, found = rewards(load_scorer(made), made, as_ranked(rows))
    by_place = found.view(-1, len(rows))
    assert (by_place[0] > by_place[1]).all()
    assert (by_place[0] > by_place[-1]).all()


def test_an_average_answer_is_worth_nothing(workshop):
    made = workshop.run("reward", workshop.model(), workshop.rows(*PAIRS), learning_rate=3e-3, steps=15)
    _, found = rewards(load_scorer(made), made, as_ranked(PAIRS))
    assert abs(made.facts["offset"]) > 1e-3
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(found.std(correction=0)) == pytest.approx(made.facts["spread"], rel=1e-3)


def test_it_stops_early_with_its_best_weights(workshop):
    """Held-out pairs that say the opposite: its best weights are its first."""
    flipped = [{"prompt": p["prompt"], "chosen": p["rejected"], "rejected": p["chosen"]} for p in PAIRS]
    stop = {"on": "given", "every": 2, "patience": 2}
    stage = workshop.stage("reward", [None], learning_rate=3e-3, steps=40, stop_early=stop)
    for name in ("made", "scratch"):
        (workshop.folder / name).mkdir()
    inputs = {"model": workshop.model(), "data": workshop.rows(*PAIRS), "stop_early.on": workshop.rows(*flipped)}
    made = stage.run(Job(workshop.folder / "made", workshop.folder / "scratch"), **inputs)
    assert made.facts["stop_early"]["best_step"] == 0
    assert made.facts["stop_early"]["held_out_loss"] == pytest.approx(math.log(2), rel=1e-4)


# As others load it


def plain_scores(scoring, tokenizer, batch: Batch) -> torch.Tensor:
    """By transformers alone: rows padded on the right, with an attention mask."""
    paths = [tree.prompt + tree.branches[n].tokens for n in range(2) for tree in batch.trees]
    width = max(map(len, paths))
    ids = torch.tensor([[*path, *[tokenizer.pad_token_id] * (width - len(path))] for path in paths])
    mask = torch.tensor([[1] * len(path) + [0] * (width - len(path)) for path in paths])
    assert len(set(map(len, paths))) > 1
    with torch.no_grad():
        found: torch.Tensor = scoring(input_ids=ids, attention_mask=mask).logits[:, 0]
    return found


def based(workshop, pad: str | None = "own", **changes):
    """A model whose tokenizer has a padding token of its own, its end of sequence for one, or none."""
    folder = workshop.folder / hash_of([pad, changes])
    tiny.model(**changes).save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    if pad != "own":
        tokenizer.pad_token = pad
    tokenizer.save_pretrained(folder)
    return workshop.store.model(str(folder))


UNEVEN = [{"prompt": "say " + "a" * n, "chosen": "b" * n, "rejected": "c" * (7 - n)} for n in range(1, 6)]
FULL = {"vocab_size": len(tiny.tokenizer())}  # no row to spare for a new token


@pytest.mark.slow
@pytest.mark.parametrize("pad", ["own", "<|end|>", None])
@pytest.mark.parametrize("changes", [{}, FULL], ids=["spare", "full"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_plain_transformers_gives_the_same_scores(workshop, pad, changes, family):
    """Where padding is the end of sequence, transformers would read the token before the last: the saved tokenizer pads
    with another."""
    base = based(workshop, pad, family=family, **changes)
    made = workshop.run("reward", base, workshop.rows(*UNEVEN), learning_rate=3e-3, steps=10)
    tokenizer = hf.AutoTokenizer.from_pretrained(made.path)
    scoring = hf.AutoModelForSequenceClassification.from_pretrained(made.path, dtype=torch.float32)
    assert scoring.config.architectures[0].endswith("ForSequenceClassification")
    assert scoring.config.num_labels == 1 and scoring.config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    batch, ours = rewards(load_scorer(made), made, as_ranked(UNEVEN))
    assert ours.std() > 0.1
    theirs = plain_scores(scoring, tokenizer, batch)
    assert (ours + made.facts["offset"] - theirs).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", *kinds.KINDS])
def test_every_kind_of_adapter_scores_after_loading_as_before(workshop, kind):
    """The mean of the training answers, found before saving, is taken off after loading; and it learnt."""
    adapter = None if kind == "none" else kinds.KINDS[kind]
    base = kinds.wide(workshop) if kind == "qlora" else workshop.model()
    rate = 3e-3 if adapter is None else 3e-2
    made = workshop.run("reward", base, workshop.rows(*PAIRS), learning_rate=rate, steps=15, adapter=adapter)
    assert (made.form, made.base) == ("reward", str(base.path) if adapter else None)
    _, found = rewards(load_scorer(made), made, as_ranked(PAIRS))
    assert float(found.mean()) == pytest.approx(0, abs=1e-4)
    assert float(found.std(correction=0)) == pytest.approx(made.facts["spread"], rel=1e-3)
    assert made.facts["spread"] > 0.1
    assert made.facts["final"]["loss"] < math.log(2)


@pytest.mark.slow
@pytest.mark.parametrize("pad", ["own", "<|end|>", "<|endoftext|>"])
@pytest.mark.parametrize("kind", ["lora", "dora", "pissa", "ia3", "osf"])
def test_plain_peft_gives_the_same_scores(workshop, kind, pad):
    base = based(workshop, pad, **FULL)
    options = {"learning_rate": 3e-2, "steps": 10, "adapter": kinds.KINDS[kind]}
    made = workshop.run("reward", base, workshop.rows(*UNEVEN), **options)
    assert json.loads((made.path / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    tokenizer = hf.AutoTokenizer.from_pretrained(made.path)
    plain = hf.AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=1, dtype=torch.float32)
    if len(tokenizer) > plain.config.vocab_size:
        plain.resize_token_embeddings(len(tokenizer))
    plain.config.pad_token_id = tokenizer.pad_token_id
    scoring = peft.PeftModel.from_pretrained(plain, made.path).eval()
    batch, ours = rewards(load_scorer(made), made, as_ranked(UNEVEN))
    assert ours.std() > 0.1
    assert (ours + made.facts["offset"] - plain_scores(scoring, tokenizer, batch)).abs().max() < 1e-4


# What is refused


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"keep": {"kl": 0.1}}, "hold its weights with `keep: {l2: 0.001}`."),
        ({"keep": {"replay": {"data": "x.jsonl"}}}, "name general preferences beside the others in `data`."),
        ({"forget": {"on": "x.txt"}}, "keep the best weights with `stop_early: {on: held_out.jsonl}`."),
    ],
)
def test_what_has_no_meaning_for_a_reward_model_is_refused(options, cure):
    ((_, problem),) = problems(stage_class("reward"), {"data": "pairs.jsonl", **options})
    assert "a reward model writes nothing" in problem.message
    assert problem.message.endswith(cure)
    assert not problems(stage_class("dpo"), {"data": "pairs.jsonl", **options})


def test_it_can_be_held_to_its_first_weights(workshop):
    free, held = (
        workshop.run("reward", workshop.model(), workshop.rows(*PAIRS), learning_rate=3e-3, steps=10, keep={"l2": l2})
        for l2 in (0.0, 10.0)
    )
    assert held.facts["spread"] < free.facts["spread"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**SMALL)), "is a granite model"),
        (tiny.encoder_decoder, "is a t5 model"),
        (lambda: hf.BertLMHeadModel(hf.BertConfig(**SMALL, is_decoder=True)), "is a bert model"),
    ],
)
def test_a_model_that_has_no_form_that_scores_is_one_clear_message(workshop, make, said):
    make().save_pretrained(workshop.folder / "m")
    tiny.tokenizer().save_pretrained(workshop.folder / "m")
    with pytest.raises(ModelError, match=f"{said}.*Take another one for the reward model, such as a Llama"):
        workshop.run("reward", workshop.store.model(str(workshop.folder / "m")), workshop.rows(*PAIRS), steps=1)


SMALL = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
