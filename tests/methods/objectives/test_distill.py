"""Distillation: the loss by its definition, a student that comes to expect what its teacher does, and what is refused."""

import json
import math

import pytest
import torch
from pydantic import ValidationError

import posttrain as pt
from posttrain.data.batch import Batch
from posttrain.engine.lr_find import range_test
from posttrain.engine.method import stage_class
from posttrain.engine.own_answers import FromOwnAnswers, before_last_answer
from posttrain.functional.divergence import jensen_shannon, plain_divergence, skew_forward, skew_reverse
from posttrain.functional.layout import Branch, Tree
from posttrain.methods.objectives.distill import Distill
from posttrain.models.load import load_policy
from posttrain.models.policy import Models, Policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.pipeline.plan import load
from posttrain.schema.errors import ModelError, RecipeError, UsageError
from posttrain.schema.rows import Conversation, Prompt, Text
from tests import tiny

TREES = tiny.trees(4, 1, seed=2)
ROWS = [{"prompt": f"say {word}", "completion": word[::-1]} for word in ("abc", "xyz", "no", "tuv", "go", "pqr")]
FAST = {"learning_rate": 1e-2, "steps": 4, "batch_size": 3}


def policy(seed: int = 1, layout: str = "packed", **changes) -> Policy:
    return Policy(tiny.model(seed=seed, **changes), tiny.tokenizer(), layout=layout)


def logits(of: Policy, trees=TREES) -> torch.Tensor:
    """(N, V): what stands before the trained tokens, by the model alone."""
    found = []
    for tree in trees:
        (branch,) = tree.branches
        each = of.model(torch.tensor([[*tree.prompt, *branch.tokens]])).logits[0, len(tree.prompt) - 1 : -1]
        found.append(each[torch.tensor(branch.trained)])
    return torch.cat(found)


def loss_of(objective: Distill, of: Models) -> torch.Tensor:
    batch = Batch(TREES)
    return objective.loss(of, batch, batch.counts())[0]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "forward"),
        ({"divergence": "reverse"}, "reverse"),
        ({"divergence": "jsd", "beta": 0.3}, jensen_shannon(0.3)),
        ({"divergence": "skew_forward", "skew": 0.2}, skew_forward(0.2)),
        ({"divergence": "skew_reverse"}, skew_reverse(0.1)),
    ],
)
def test_the_loss_is_the_mean_divergence_of_whole_logits(options, kind, temperature):
    of = Models(policy(1), teacher=policy(2))
    found = loss_of(Distill(temperature=temperature, **options), of)
    q, p = (logits(each).detach() / temperature for each in (of.policy, of.teacher))
    assert found.item() == pytest.approx(plain_divergence(q, p, kind).mean().item(), rel=1e-4)


def test_by_hand():
    """Heads of nothing expect every token alike; a bias of log 3 makes a token three times as likely as each other."""
    student, teacher = policy(1, tie_word_embeddings=False), policy(2, tie_word_embeddings=False)
    for each in (student, teacher):
        torch.nn.init.zeros_(each.model.lm_head.weight)
    v = tiny.VOCABULARY
    teacher.model.lm_head.bias = torch.nn.Parameter(torch.zeros(v).index_fill(0, torch.tensor([7]), math.log(3.0)))
    of = Models(student, teacher=teacher)
    p, rest = 3 / (v + 2), 1 / (v + 2)
    forward = p * math.log(p * v) + (v - 1) * rest * math.log(rest * v)
    assert loss_of(Distill(), of).item() == pytest.approx(forward, rel=1e-4)
    assert loss_of(Distill(labels=0.25), of).item() == pytest.approx(0.75 * forward + 0.25 * math.log(v), rel=1e-4)
    reverse = -(math.log(p * v) + (v - 1) * math.log(rest * v)) / v
    assert loss_of(Distill(divergence="reverse"), of).item() == pytest.approx(reverse, rel=1e-4)


def test_the_gradient_is_that_of_both_terms():
    of, plain = Models(policy(1), teacher=policy(2)), policy(1)
    loss_of(Distill(labels=0.3, temperature=2.0), of).backward()
    z, p = logits(plain), logits(of.teacher).detach()
    targets = torch.tensor(
        [t for tree in TREES for t, on in zip(tree.branches[0].tokens, tree.branches[0].trained, strict=True) if on]
    )
    labels = torch.nn.functional.cross_entropy(z, targets)
    (0.7 * plain_divergence(z / 2, p / 2).mean() + 0.3 * labels).backward()
    ours, theirs = (torch.cat([x.grad.flatten() for x in each.trainable()]) for each in (of.policy, plain))
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    assert all(parameter.grad is None for parameter in of.teacher.model.parameters())


@pytest.mark.parametrize("layouts", [("packed", "padded"), ("logits", "packed"), ("packed", "logits")])
def test_models_of_other_sizes_layouts_and_padded_heads_are_compared(layouts):
    """A teacher that is deeper, wider, and whose head has rows that no token has."""
    student = policy(1, layouts[0])
    teacher = policy(2, layouts[1], num_hidden_layers=3, hidden_size=64, vocab_size=tiny.VOCABULARY + 20)
    q, p = logits(student).detach(), logits(teacher).detach()[:, : tiny.VOCABULARY]
    found = loss_of(Distill(), Models(student, teacher=teacher))
    assert found.item() == pytest.approx(plain_divergence(q, p).mean().item(), rel=1e-4)
    found = loss_of(Distill(), Models(teacher, teacher=student))
    assert found.item() == pytest.approx(plain_divergence(p, q).mean().item(), rel=1e-4)


def apart(student, teacher, **options) -> float:
    """The divergence between two artifacts, on drawn rows."""
    return loss_of(Distill(**options), Models(load_policy(student), teacher=load_policy(teacher))).item()


@pytest.mark.parametrize(
    "options", [{}, {"divergence": "reverse"}, {"divergence": "jsd"}, {"on_policy": 0.5}, {"on_policy": 1.0}]
)
@pytest.mark.slow
def test_a_student_comes_to_expect_what_its_teacher_does(workshop, options):
    student, teacher = workshop.model(0), workshop.model(5)
    hard = {"learning_rate": 1e-2, "steps": 40, "batch_size": 6, "max_new_tokens": 8, "schedule": "constant"}
    taught = workshop.run(
        "distill", student, workshop.rows(*ROWS), inputs={"teacher": teacher}, teacher="given", **hard, **options
    )
    final = taught.facts["final"]
    before = apart(student, teacher, divergence=options.get("divergence", "forward"))
    assert final["divergence"] < 0.5 * before
    assert ("finished" in final) == ("on_policy" in options)


def test_an_adapter_can_be_taught_and_what_keeps_can_stand_beside(workshop):
    options = {**FAST, "adapter": "lora", "keep": {"replay": {"data": "given"}, "kl": 0.1}, "on_policy": 0.5}
    inputs = {"teacher": workshop.model(5), "keep.replay.data": workshop.rows(ROWS[0])}
    made = workshop.run(
        "distill", workshop.model(), workshop.rows(*ROWS), inputs=inputs, teacher="given", max_new_tokens=4, **options
    )
    assert made.form == "adapter"
    assert {"divergence", "kl_to_start"} <= made.facts["final"].keys()


def test_what_watches_stands_beside_answers_that_are_drawn(workshop):
    """A budget, early stopping on rows with answers, and general ones replayed among prompts."""
    inputs = {"teacher": workshop.model(5)} | {
        name: workshop.rows(*ROWS) for name in ("forget.on", "stop_early.on", "keep.replay.data")
    }
    watched = {
        "forget": {"on": "given", "every": 2},
        "stop_early": {"on": "given", "every": 2},
        "keep": {"replay": {"data": "given"}},
    }
    prompts = workshop.rows(*({"prompt": row["prompt"]} for row in ROWS))
    options = {**FAST, **watched, "on_policy": 1, "max_new_tokens": 4}
    made = workshop.run("distill", workshop.model(), prompts, inputs=inputs, teacher="given", **options)
    assert math.isfinite(made.facts["stop_early"]["held_out_loss"])


@pytest.mark.slow
@pytest.mark.parametrize("on_policy", [0.0, 0.5])
def test_an_encoder_decoder_is_taught_by_another(workshop, on_policy):
    made = []
    for seed in (1, 2):
        folder = workshop.folder / f"t5-{seed}"
        tiny.encoder_decoder(seed=seed).save_pretrained(folder)
        tiny.encoder_tokenizer().save_pretrained(folder)
        made.append(workshop.store.model(str(folder)))
    student, teacher = made
    options = {
        **FAST,
        "steps": 30,
        "schedule": "constant",
        "on_policy": on_policy,
        "max_new_tokens": 6,
        "max_length": 64,
    }
    taught = workshop.run(
        "distill", student, workshop.rows(*ROWS), inputs={"teacher": teacher}, teacher="given", **options
    )
    before, after = (apart(each, teacher) for each in (student, taught))
    assert after < before
    with pytest.raises(ModelError, match="not both encoder-decoders"):
        inputs = {"teacher": workshop.model(5)}
        workshop.run("distill", student, workshop.rows(*ROWS), inputs=inputs, teacher="given", **FAST)


def test_texts_are_rows_too(workshop):
    rows = workshop.rows({"text": "a ship sails"}, {"text": "and comes home"})
    made = workshop.run(
        "distill", workshop.model(), rows, inputs={"teacher": workshop.model(5)}, teacher="given", **FAST
    )
    assert made.facts["trained_tokens"] == len("a ship sails") - 1 + len("and comes home") - 1 + 2  # and their ends


def test_prompts_need_no_answer_where_all_are_drawn(workshop):
    rows = workshop.rows(*({"prompt": row["prompt"]} for row in ROWS))
    options = {**FAST, "on_policy": 1.0, "max_new_tokens": 5, "inputs": {"teacher": workshop.model(5)}}
    made = workshop.run("distill", workshop.model(), rows, teacher="given", **options)
    assert made.facts["rows"] == len(ROWS)
    again = workshop.run(
        "distill", workshop.model(), rows, teacher="given", **options, checkpoint_seconds=0.0, epochs=2
    )
    assert again.digest == made.digest


def test_what_stands_before_the_last_answer():
    turns = Branch((4, 5, 6, 7, 8, 9), (True, True, False, False, True, True))
    assert before_last_answer(Tree((1, 2), (turns,))) == (1, 2, 4, 5, 6, 7)
    assert before_last_answer(Tree((1, 2), (Branch((4,), (True,)),))) == (1, 2)
    assert before_last_answer(Tree((1, 2), (Branch((), ()),))) == (1, 2)


def test_a_share_of_the_rows_is_answered_by_the_policy():
    of = policy()
    sampler, sampling = TransformersSampler(of, frozenset({2})), Sampling(max_new_tokens=6, temperature=1.0)
    trees = tiny.trees(200, 1, seed=4)
    source = FromOwnAnswers(trees, 200, 0, sampler, sampling, 0.3, 26, frozenset({2}))
    batch = source.draw(0, Models(of))
    own = [tree for tree in batch.trees if tree not in trees]
    assert 0.2 < len(own) / 200 < 0.4
    for tree in own:
        assert all(tree.branches[0].trained) and tree.longest_path() <= 26
        assert tree.prompt in {before_last_answer(each) for each in trees}
    assert source.draw(0, Models(of)) == batch
    assert source.draw(1, Models(of)) != batch
    assert 0 < source.told()["answer_tokens"] <= 6


def test_which_rows_are_read():
    def shapes(**options):
        return stage_class("distill")(data="given", teacher="given", **options).shapes()

    assert shapes() == (Conversation, Text)
    assert shapes(on_policy=0.5) == (Conversation,)
    assert shapes(on_policy=1) == (Prompt,)


RECIPE = """
model: lab
stages:
  - sft: {{data: rows.jsonl}}
  - distill: {{from: base, teacher: {teacher}, data: rows.jsonl}}
"""


def test_the_teacher_is_a_stage_or_a_folder():
    plan = load(RECIPE.format(teacher="sft"))
    assert plan.steps[1].waits_for == ("base", "sft")
    assert "model folder" in [source.identity for _, source in load(RECIPE.format(teacher="folder")).outside()]
    with pytest.raises(RecipeError, match=r"is made later than it is read"):
        load(RECIPE.format(teacher="distill"))


def test_another_teacher_makes_another_student(workshop):
    """And the learning rate is looked for under a teacher, as it is without one."""
    rows, stage = workshop.rows(*ROWS), stage_class("distill")(data="given", teacher="given", batch_size=4)
    made = [
        workshop.run("distill", workshop.model(), rows, inputs={"teacher": workshop.model(n)}, teacher="given", **FAST)
        for n in (5, 6)
    ]
    assert made[0].digest != made[1].digest
    curve = range_test(stage, workshop.model(), rows, others={"teacher": workshop.model(5)}, steps=3)
    assert len(curve.losses) == 3 and curve.losses[0] != curve.losses[-1]
    drawing = stage_class("distill")(data="given", teacher="given", on_policy=1)
    with pytest.raises(UsageError, match="Look for the rate with rows that have answers"):
        range_test(drawing, workshop.model(), rows, others={"teacher": workshop.model(5)}, steps=3)


def test_a_teacher_with_other_tokens_is_refused(workshop):
    """As many of them, and two that have each other's numbers."""
    folder = workshop.folder / "other"
    tiny.model(seed=3).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    vocab = told["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    file.write_text(json.dumps(told), encoding="utf-8")
    other = workshop.store.model(str(folder))
    with pytest.raises(
        ModelError,
        match=r"other numbers for them: 2, such as 'a', 'b'\..*learn the teacher's answers as text: `sample` ",
    ):
        workshop.run(
            "distill", workshop.model(), workshop.rows(*ROWS), inputs={"teacher": other}, teacher="given", **FAST
        )


def test_a_teacher_that_reads_less_is_refused(workshop):
    folder = workshop.folder / "short"
    tiny.model(seed=3, max_position_embeddings=64).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    inputs = {"teacher": workshop.store.model(str(folder))}
    with pytest.raises(ModelError, match="Set `max_length: 64`"):
        workshop.run("distill", workshop.model(), workshop.rows(*ROWS), inputs=inputs, teacher="given", **FAST)
    made = workshop.run(
        "distill", workshop.model(), workshop.rows(*ROWS), inputs=inputs, teacher="given", max_length=64, **FAST
    )
    assert made.facts["rows"] == len(ROWS)


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"beta": 0.2}, "`beta` is for `divergence: jsd`"),
        ({"skew": 0.2, "divergence": "jsd"}, "`skew` is for"),
        ({"labels": 0.2, "on_policy": 0.5}, "leave `labels` out, or `on_policy`"),
    ],
)
def test_options_that_do_nothing_are_refused(options, cure):
    with pytest.raises(ValidationError, match=cure):
        stage_class("distill")(data="given", teacher="given", **options)


def test_what_a_recipe_may_give_it_to_read(tmp_path, monkeypatch):
    """Texts, or bare prompts where all answers are drawn; found out before anything is trained."""
    for name in ("base", "teacher"):
        tiny.model(seed=len(name)).save_pretrained(tmp_path / name)
        tiny.tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "texts.jsonl").write_text('{"text": "a ship sails"}\n' * 4, encoding="utf-8")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "say abc"}\n' * 4, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def run(data: str, **options):
        stage = {"teacher": "./teacher", "data": data, "steps": 1, "batch_size": 2, "max_new_tokens": 4, **options}
        recipe = {"model": "./base", "measure": ["size"], "stages": [{"distill": stage}]}
        return pt.run(recipe, out=tmp_path / "runs").models["distill"]

    assert run("texts.jsonl").facts["trained_tokens"] > 0
    assert run("prompts.jsonl", on_policy=1).facts["rows"] == 4
    with pytest.raises(RecipeError, match="cannot be read as Conversation"):
        run("prompts.jsonl")
    with pytest.raises(RecipeError, match="cannot be read as Conversation"):
        run("texts.jsonl", on_policy=0.5)
