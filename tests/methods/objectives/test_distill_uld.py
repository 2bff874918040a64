"""A teacher of other tokens: the loss by a plain reading of the paper, any cut of a batch, and a student that becomes as sure
as its teacher."""

import pytest
import torch
from pydantic import ValidationError

from posttrain.data.batch import Batch
from posttrain.data.chat import ChatFormat
from posttrain.data.trees import plant
from posttrain.engine.job import Job
from posttrain.engine.lr_find import range_test
from posttrain.engine.method import stage_class
from posttrain.engine.other_tokens import OtherTokens
from posttrain.engine.reference import name_of
from posttrain.methods.objectives.distill import Distill
from posttrain.models.policy import Models, Policy
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Message, Text
from tests import tiny

WORDS = ("abc", "xyz", "no", "tuv", "go", "pqr", "hello world")
ROWS = [{"prompt": f"say {word}", "completion": word[::-1]} for word in WORDS]
FAST = {"learning_rate": 1e-2, "steps": 4, "batch_size": 3}
SAID = [Conversation((Message("user", row["prompt"]), Message("assistant", row["completion"]))) for row in ROWS]


def both(layout: str = "packed") -> tuple[Policy, Policy]:
    """A student of bytes, and a wider teacher of longer tokens."""
    student = Policy(tiny.model(seed=1), tiny.tokenizer(), layout=layout)
    wide = tiny.model(seed=2, hidden_size=64, vocab_size=310)
    return student, Policy(wide, tiny.other_tokenizer(), layout=layout)


def of(student: Policy, teacher: Policy) -> tuple[Models, tuple, tuple]:
    ours, theirs = (plant(SAID, ChatFormat(each.tokenizer), 64) for each in (student, teacher))
    reads = OtherTokens(teacher, student, theirs, {name_of(tree): n for n, tree in enumerate(ours)})
    return Models(student, teacher=reads), ours, theirs


def learnt(models: Models, trees, **options) -> torch.Tensor:
    batch = Batch(trees)
    return Distill(divergence="uld", **options).loss(models, batch, batch.counts())[0]


def plain(student: Policy, teacher: Policy, ours, theirs, temperature: float = 1.0) -> torch.Tensor:
    """The same, one row after the other: every token of the teacher is a group, as bytes end wherever it does."""
    total, n = torch.zeros(()), 0
    for mine, other in zip(ours, theirs, strict=True):
        q, p = (_probabilities(each, tree, temperature) for each, tree in ((student, mine), (teacher, other)))
        said, ids = mine.branches[0].tokens, other.branches[0].tokens
        n += len(said)
        start = 0
        for k, id in enumerate(ids):
            text = "\0" if id == teacher.tokenizer.eos_token_id else teacher.tokenizer.decode([id])
            end = start + len(text)  # a byte a letter
            before = torch.ones(())
            for i in range(start, end - 1):
                before = before * q[i, said[i]]
            ranked, others = (before * q[end - 1]).sort(descending=True).values, p[k].sort(descending=True).values
            ranked = torch.cat([ranked, torch.zeros(len(others) - len(ranked))])
            total, start = total + (ranked - others).abs().sum(), end
        assert start == len(said)
    return total / n


def _probabilities(policy: Policy, tree, temperature: float) -> torch.Tensor:
    (branch,) = tree.branches
    logits = policy.model(torch.tensor([[*tree.prompt, *branch.tokens]])).logits[0, len(tree.prompt) - 1 : -1]
    return (logits / temperature).softmax(-1)


def slope(policy: Policy) -> torch.Tensor:
    return torch.cat([x.grad.flatten() for x in policy.trainable()])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("layout", ["packed", "padded", "logits"])
def test_loss_and_slope_are_those_of_the_published_formula(layout, temperature):
    student, teacher = both(layout)
    models, ours, theirs = of(student, teacher)
    found = learnt(models, ours, temperature=temperature)
    again, _ = both(layout)
    expected = plain(again, teacher, ours, theirs, temperature)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    found.backward()
    expected.backward()
    assert (slope(student) - slope(again)).norm() < 1e-4 * slope(again).norm()


def test_the_cut_of_a_batch_does_not_matter():
    student, teacher = both()
    models, ours, _ = of(student, teacher)
    learnt(models, ours, labels=0.3).backward()
    whole = slope(student)
    student.model.zero_grad()
    batch = Batch(ours[::-1])
    for micro in batch.split(1):
        Distill(divergence="uld", labels=0.3).loss(models, micro, batch.counts())[0].backward()
    assert (slope(student) - whole).norm() < 1e-5 * whole.norm()


def test_a_row_that_the_teacher_does_not_have_adds_nothing():
    student, teacher = both()
    models, ours, _ = of(student, teacher)
    stranger = tiny.trees(1, 1)
    total = Batch((*ours, *stranger)).counts()
    both_of, alone = (Distill(divergence="uld").loss(models, Batch(x), total)[0] for x in ((*ours, *stranger), ours))
    nothing = Distill(divergence="uld").loss(models, Batch(stranger), total)[0]
    assert both_of.item() == pytest.approx(alone.item(), rel=1e-5)
    assert nothing.item() == 0
    nothing.backward()


def other(workshop, seed: int = 5):
    folder = workshop.folder / f"other-{seed}"
    tiny.model(seed=seed, vocab_size=310, eos_token_id=0).save_pretrained(folder)
    tiny.other_tokenizer().save_pretrained(folder)
    return workshop.store.model(str(folder))


def test_a_stage_says_how_much_is_aligned_and_goes_on_to_the_same_bytes(workshop):
    rows, model, teacher = workshop.rows(*ROWS), workshop.model(), other(workshop)
    stage = workshop.stage(
        "distill", rows, teacher="given", divergence="uld", stop_early={"on": "given", "every": 2}, **FAST
    )

    def run(name: str, stop=lambda: False):
        made, scratch = workshop.folder / f"{name}-made", workshop.folder / f"{name}-scratch"
        for folder in (made, scratch):
            folder.mkdir(exist_ok=True)
        job = Job(made, scratch, stop=stop)
        found = stage.run(job, model=model, data=rows, teacher=teacher, **{"stop_early.on": rows})
        return found.facts, (made / "model.safetensors").read_bytes()

    facts, whole = run("whole")
    assert facts["tokens_aligned"] == 1
    assert 0.1 < facts["tokens_alike"] < 0.9  # single letters, and the ends
    assert facts["stop_early"]["held_out_loss"] > 0
    looks = iter([False, True])
    with pytest.raises(BaseException, match="Run the same command"):
        run("stopped", lambda: next(looks))
    assert run("stopped") == (facts, whole)


@pytest.mark.slow
def test_a_student_becomes_as_sure_as_a_teacher_of_other_tokens(workshop):
    """Taught rows by the teacher first, so that there is something to be sure of."""
    hard = {"learning_rate": 5e-3, "steps": 60, "batch_size": 7, "schedule": "constant"}
    teacher = workshop.run("sft", other(workshop), workshop.rows(*ROWS), **hard)
    taught = {}
    for name, options in (
        ("taught", {"divergence": "uld", "labels": 0.3}),
        ("first", {"divergence": "uld", "labels": 0.3}),
    ):
        steps = hard if name == "taught" else {**hard, "steps": 1}
        made = workshop.run(
            "distill", workshop.model(), workshop.rows(*ROWS), inputs={"teacher": teacher}, teacher="given",
            **options, **steps,
        )  # fmt: skip
        taught[name] = made.facts["final"]["divergence"]
    assert taught["taught"] < 0.2 * taught["first"]


def test_the_rate_can_be_looked_for(workshop):
    stage = stage_class("distill")(data="given", teacher="given", batch_size=4, divergence="uld")
    curve = range_test(stage, workshop.model(), workshop.rows(*ROWS), others={"teacher": other(workshop)}, steps=3)
    assert len(curve.losses) == 3


def test_only_conversations_are_read():
    assert stage_class("distill")(data="given", teacher="given", divergence="uld").shapes() == (Conversation,)
    assert Text in stage_class("distill")(data="given", teacher="given").shapes()


def test_answers_that_no_template_shares_are_refused(workshop):
    folder = workshop.folder / "shouting"
    tiny.model(seed=5, vocab_size=310, eos_token_id=0).save_pretrained(folder)
    tokenizer = tiny.other_tokenizer()
    tokenizer.chat_template = tiny.OTHER_CHAT.replace("{{ m.content }}", "say: {{ m.content }}")
    tokenizer.save_pretrained(folder)
    with pytest.raises(DataError, match="Give the model that learns another `chat_template`"):
        workshop.run(
            "distill", workshop.model(), workshop.rows(*ROWS), teacher="given", divergence="uld",
            inputs={"teacher": workshop.store.model(str(folder))}, **FAST,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"on_policy": 0.5}, "leave `on_policy` out"),
        ({"hidden": 0.1}, "leave `hidden` out"),
        ({"keep": {"replay": {"data": "given"}}}, "leave `keep.replay` out"),
        ({"cache": {}}, "leave `cache` out"),
    ],
)
def test_what_needs_the_same_tokens_is_refused(options, cure):
    with pytest.raises(ValidationError, match=cure):
        stage_class("distill")(data="given", teacher="given", divergence="uld", **options)
