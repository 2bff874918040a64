"""Credit for what lies ahead: with it the gradient is that of the reverse divergence of whole answers, summed over all of
them; without it, it is not."""

import itertools

import pytest
import torch
from pydantic import ValidationError

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import stage_class
from posttrain.functional.layout import Branch, Tree
from posttrain.methods.objectives.distill import Distill
from posttrain.models.policy import Models, Policy
from tests import tiny

WORDS = 5
ROWS = [{"prompt": f"say {word}", "completion": word[::-1]} for word in ("abc", "xyz", "no", "tuv", "go", "pqr")]


def policy(seed: int) -> Policy:
    return Policy(tiny.model(seed=seed, vocab_size=WORDS, eos_token_id=1), tiny.tokenizer(), layout="padded")


def slope(of: Policy) -> torch.Tensor:
    return torch.cat([x.grad.flatten() for x in of.trainable()])


def expected_slope(ahead: float) -> torch.Tensor:
    """The mean of the gradient over all answers of two tokens, each as often as the policy gives it."""
    of = Models(policy(1), teacher=policy(2))
    objective = Distill(divergence="reverse", ahead=ahead)
    for answer in itertools.product(range(WORDS), repeat=2):
        batch = Batch((Tree((0, 3), (Branch(answer, (True, True)),)),))
        with torch.no_grad():
            often = of.policy.logps(batch).sum().exp()
        loss, _ = objective.loss(of, batch, Counts(1, 1, 1, 1))
        (often * loss).backward()
    return slope(of.policy)


def test_the_gradient_is_that_of_the_divergence_of_whole_answers():
    """Two tokens have one ahead of the first, so that its mean is its sum and nothing is left out."""
    student, teacher = policy(1), policy(2)
    trees = tuple(Tree((0, 3), (Branch(answer, (True, True)),)) for answer in itertools.product(range(WORDS), repeat=2))
    q, p = (each.answer_logps(Batch(trees)) for each in (student, teacher))
    (q.exp() * (q - p.detach())).sum().backward()
    whole = slope(student)
    assert (expected_slope(1.0) - whole).norm() < 1e-4 * whole.norm()
    assert (expected_slope(0.0) - whole).norm() > 0.05 * whole.norm()


@pytest.mark.parametrize("micro_tokens", [10**6, 30, 1])
def test_the_cut_of_a_batch_does_not_matter(micro_tokens):
    of, trees = (
        Models(Policy(tiny.model(seed=1), tiny.tokenizer()), teacher=Policy(tiny.model(seed=2), tiny.tokenizer())),
        tiny.trees(6, 1),
    )
    batch = Batch(trees)
    objective = Distill(divergence="reverse", ahead=1)
    found = []
    for parts in ([batch], batch.split(micro_tokens)):
        of.policy.model.zero_grad()
        for part in parts:
            objective.loss(of, part, batch.counts())[0].backward()
        found.append(slope(of.policy).clone())
    assert (found[0] - found[1]).norm() < 1e-5 * found[0].norm()


@pytest.mark.slow
def test_a_student_finds_answers_that_its_teacher_likes(workshop):
    """What the teacher thinks of the policy's own tokens comes nearer to what the policy does."""
    hard = {"learning_rate": 1e-2, "batch_size": 6, "max_new_tokens": 8, "schedule": "constant", "on_policy": 1}
    final = {}
    for steps in (1, 120):
        made = workshop.run(
            "distill", workshop.model(0), workshop.rows(*ROWS), inputs={"teacher": workshop.model(5)}, teacher="given",
            divergence="reverse", ahead=1, steps=steps, **hard,
        )  # fmt: skip
        final[steps] = made.facts["final"]
    assert final[120]["ahead"] > 0.75 * final[1]["ahead"]
    assert final[120]["divergence"] < 0.75 * final[1]["divergence"]


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({}, "write that and `temperature: 1`"),
        ({"divergence": "reverse", "on_policy": 1, "temperature": 2}, "write that and `temperature: 1`"),
        ({"divergence": "reverse", "on_policy": 0.5}, "write `on_policy: 1` without"),
        ({"divergence": "reverse", "on_policy": 1, "stop_early": {"on": "given"}}, "write `on_policy: 1` without"),
    ],
)
def test_what_has_nothing_ahead_is_refused(options, cure):
    with pytest.raises(ValidationError, match=cure):
        stage_class("distill")(data="given", teacher="given", ahead=1, **options)
