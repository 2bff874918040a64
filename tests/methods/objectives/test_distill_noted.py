"""What a teacher expects, noted once: the loss of a teacher that is asked, no second question, and a kill that costs nothing."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from posttrain.data.batch import Batch
from posttrain.engine import noting, taught
from posttrain.engine.job import Job
from posttrain.engine.lr_find import range_test
from posttrain.engine.method import stage_class
from posttrain.engine.noting import Asking, noted
from posttrain.functional.divergence import plain_divergence
from posttrain.functional.top_k import top_k
from posttrain.methods.objectives.distill import Distill
from posttrain.models.load import load_policy
from posttrain.models.policy import Models, Policy
from posttrain.schema.errors import Stopped
from tests import tiny

ROWS = [{"prompt": f"say {word}", "completion": word[::-1]} for word in ("abc", "xyz", "no", "tuv", "go", "pqr")]
FAST = {"learning_rate": 1e-2, "steps": 4, "batch_size": 3}
TREES = tiny.trees(40, 1, seed=2)
V = tiny.VOCABULARY


def policy(seed: int = 1, layout: str = "packed", **changes) -> Policy:
    return Policy(tiny.model(seed=seed, **changes), tiny.tokenizer(), layout=layout)


def asking(teacher: Policy, top: int = 8, temperature: float = 1.0, most: int = V) -> Asking:
    return Asking(lambda: teacher, "digest", top, most, temperature, "float32", 200)


def notes(teacher: Policy, folder, trees=TREES, job: Job | None = None, **options):
    return noted(asking(teacher, **options), [trees], torch.device("cpu"), job or Job(folder, folder))


def learnt(of: Models, trees=TREES, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a distillation and its slope."""
    batch = Batch(trees)
    loss, _ = Distill(**options).loss(of, batch, batch.counts())
    of.policy.model.zero_grad()
    loss.backward()
    return loss.detach(), torch.cat([x.grad.flatten() for x in of.policy.trainable()])


@pytest.mark.parametrize("layout", ["packed", "logits"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_the_whole_vocabulary_it_is_the_teacher_itself(tmp_path, layout, temperature):
    """Up to the digits of f16, which are eleven bits."""
    teacher = policy(2, num_hidden_layers=3)
    kept = notes(teacher, tmp_path, top=V, temperature=temperature)
    options = {"temperature": temperature, "labels": 0.2}
    loss, slope = learnt(Models(policy(1, layout), teacher=teacher), **options)
    again, by_notes = learnt(Models(policy(1, layout), teacher=kept), **options)
    assert again.item() == pytest.approx(loss.item(), rel=2e-3)
    assert (slope - by_notes).norm() < 2e-3 * slope.norm()


@pytest.mark.parametrize(("ours", "theirs"), [(V, V + 20), (V + 20, V)])
def test_heads_of_other_sizes_are_compared_by_the_tokens_of_both(tmp_path, ours, theirs):
    teacher, student = policy(2, vocab_size=theirs), policy(1, vocab_size=ours)
    kept = notes(teacher, tmp_path, top=V + 50, most=ours)
    loss, _ = learnt(Models(student, teacher=teacher))
    again, _ = learnt(Models(student, teacher=kept))
    assert again.item() == pytest.approx(loss.item(), rel=2e-3)


def test_fewer_tokens_give_the_divergence_from_these_and_the_rest(tmp_path):
    student, teacher = policy(1), policy(2)
    loss, _ = learnt(Models(student, teacher=notes(teacher, tmp_path, top=5)), TREES[7:19])
    q, p = (torch.cat([_logits(each, tree) for tree in TREES[7:19]]) for each in (student, teacher))
    assert loss.item() == pytest.approx(plain_divergence(q, top_k(p, 5)).mean().item(), rel=2e-3)
    assert loss < 0.97 * plain_divergence(q, p).mean()


def _logits(of: Policy, tree) -> torch.Tensor:
    (branch,) = tree.branches
    with torch.no_grad():
        found = of.model(torch.tensor([[*tree.prompt, *branch.tokens]])).logits[0, len(tree.prompt) - 1 : -1]
    return found[torch.tensor(branch.trained)]


def test_cuts_of_a_batch_do_not_change_the_slope(tmp_path):
    of = Models(policy(1), teacher=notes(policy(2), tmp_path))
    _, whole = learnt(of)
    of.policy.model.zero_grad()
    total = Batch(TREES).counts()
    for micro in Batch(TREES[::-1]).split(60):
        Distill().loss(of, micro, total)[0].backward()
    parts = torch.cat([x.grad.flatten() for x in of.policy.trainable()])
    assert (whole - parts).norm() < 1e-5 * whole.norm()


def test_a_killed_run_goes_on_behind_what_is_noted_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(noting, "AT_ONCE", 6)
    whole = tmp_path / "whole"
    notes(policy(2), whole)
    (kept,) = whole.glob("noted/*/tokens.bin")
    stops = iter([False, False, True])
    torn = tmp_path / "torn"
    with pytest.raises(Stopped, match="go on behind what is done"):
        notes(policy(2), torn, job=Job(torn, torn, stop=lambda: next(stops)))
    (half,) = torn.glob("noted/*/tokens.bin")
    done = half.stat().st_size
    assert 0 < done < kept.stat().st_size
    with half.open("ab") as file:
        file.write(b"torn")  # what a kill in the middle of a group leaves
    teacher, seen = policy(2), []
    monkeypatch.setattr(teacher, "expects", lambda trees, of=teacher.expects: seen.extend(trees) or of(trees))
    notes(teacher, torn)
    assert half.read_bytes() == kept.read_bytes()
    assert seen == list(TREES[18:])


def test_notes_that_are_damaged_are_written_anew(tmp_path):
    notes(policy(2), tmp_path)
    (kept,) = tmp_path.glob("noted/*/tokens.bin")
    whole = kept.read_bytes()
    said: list[str] = []
    job = Job(tmp_path, tmp_path, emit=lambda kind, **fields: said.append(fields.get("text", "")))
    kept.write_bytes(whole[:-9])
    notes(policy(2), tmp_path, job=job)
    assert kept.read_bytes() == whole
    assert any("cannot be read: it is asked again" in text for text in said)
    (kept.parent / "done.json").write_text("{")
    notes(policy(2), tmp_path)
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("at_once", [5, 256])
def test_rows_twice_are_asked_once_and_others_not_known(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(noting, "AT_ONCE", at_once)
    kept = notes(policy(2), tmp_path, trees=(*TREES[:5], *TREES[:5]))
    assert kept.facts()["tokens"] == Batch(TREES[:5]).counts().tokens
    with pytest.raises(KeyError):
        kept.expects(TREES[5:6])


@pytest.mark.parametrize(("most", "record"), [(V, 8 * (2 + 2) + 2), (70_000, 8 * (4 + 2) + 2)])
def test_bytes_of_a_token(most, record):
    assert asking(policy(2)).record(most).itemsize == record


def test_the_teacher_is_asked_once_for_all_epochs_and_for_another_student(workshop, monkeypatch):
    """Then it is not even loaded. A held-out row and a replayed one are asked about too."""
    loaded, shown = [], []

    def load(*args, of=taught.load_policy, **options):
        teacher = of(*args, **options)
        loaded.append(teacher)
        monkeypatch.setattr(teacher, "expects", lambda trees, all=teacher.expects: shown.extend(trees) or all(trees))
        return teacher

    monkeypatch.setattr(taught, "load_policy", load)
    others = {
        "teacher": workshop.model(5),
        "stop_early.on": workshop.rows(ROWS[0], {"prompt": "say it", "completion": "ti"}),
        "keep.replay.data": workshop.rows({"prompt": "say me", "completion": "em"}),
    }
    options = {
        "epochs": 3, "batch_size": 3, "learning_rate": 1e-2, "cache": {"top": 20},
        "stop_early": {"on": "given", "every": 2}, "keep": {"replay": {"data": "given"}},
    }  # fmt: skip
    stage = workshop.stage("distill", workshop.rows(*ROWS), teacher="given", **options)
    folder = workshop.folder

    def run(n: int):
        made, scratch = folder / f"made-{n}", folder / f"scratch-{n}"
        made.mkdir()
        scratch.mkdir()
        job = Job(made, scratch, shared=folder)
        return stage.run(job, model=workshop.model(n), data=workshop.rows(*ROWS), **others)

    made = run(0)
    assert len(loaded) == 1 and len(shown) == len(ROWS) + 2
    assert made.facts["cache"]["bytes_per_token"] == 20 * 4 + 2
    assert 0 < made.facts["cache"]["rest"] < 1
    run(1)
    assert len(loaded) == 1


@pytest.mark.slow
def test_a_student_learns_from_notes_as_from_the_teacher(workshop):
    final = {}
    for name, cache in (("asked", None), ("noted", {"top": 30})):
        made = workshop.run(
            "distill", workshop.model(0), workshop.rows(*ROWS), inputs={"teacher": workshop.model(5)}, teacher="given",
            learning_rate=1e-2, steps=40, batch_size=6, schedule="constant", cache=cache,
        )  # fmt: skip
        final[name] = learnt(Models(load_policy(made), teacher=policy(5)))[0].item()
    start = learnt(Models(policy(0), teacher=policy(5)))[0].item()
    assert final["noted"] < start and final["noted"] < 1.5 * final["asked"]


def test_the_rate_can_be_looked_for(workshop):
    stage = stage_class("distill")(data="given", teacher="given", batch_size=4, cache={"top": 9})
    curve = range_test(stage, workshop.model(), workshop.rows(*ROWS), others={"teacher": workshop.model(5)}, steps=3)
    assert len(curve.losses) == 3 and np.isfinite(curve.losses).all()


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"on_policy": 0.5}, "leave `cache` out, or `on_policy`"),
        ({"divergence": "reverse"}, "write `divergence: forward`, or leave `cache` out"),
        ({"divergence": "jsd"}, "write `divergence: forward`, or leave `cache` out"),
    ],
)
def test_what_cannot_be_noted_is_refused(options, cure):
    with pytest.raises(ValidationError, match=cure):
        stage_class("distill")(data="given", teacher="given", cache={}, **options)
