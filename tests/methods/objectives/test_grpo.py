"""GRPO and its variants by hand, answer by answer, with whole logits."""

import math

import pytest
import torch

from posttrain.functional.layout import Branch, Tree
from posttrain.methods.objectives.grpo import GRPO
from posttrain.models.load import load_policy
from posttrain.models.policy import Models, Policy
from tests import tiny
from tests.rolled import rolled, some

TREES = tuple(
    Tree(prompt, tuple(Branch(tokens, (True,) * len(tokens)) for tokens in answers))
    for prompt, answers in {
        (5, 6): ((9, 10, 2), (7, 2), (8, 8, 8, 8)),
        (5,): ((11, 12, 2), (13, 2), (14, 15, 16, 17, 2)),
    }.items()
)
BATCH = rolled(TREES, reward=[1.0, 0.0, 0.0, 0.0, 2.5, 0.3], finished=[1.0, 1, 1, 1, 0, 1], kl_coefficient=[0.2] * 6)
"""Branch by branch: the first answer to each prompt, then the second, then the third, of which one was cut off."""
LONGEST = 16


def models(moved: float = 0.0) -> Models:
    policy, reference = (Policy(tiny.model(seed=seed), tiny.tokenizer(), layout="packed") for seed in (1, 2))
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(moved * p.std() * torch.randn(p.shape, generator=draw))
    return Models(policy, reference)


@torch.no_grad()
def alone(policy, t):
    """Log-probabilities of the tokens of each answer, lists of numbers."""
    for n in range(3):
        for tree in TREES:
            tokens = tree.branches[n].tokens
            logits = policy.model(torch.tensor([[*tree.prompt, *tokens]])).logits[0, len(tree.prompt) - 1 : -1] / t
            yield logits.log_softmax(-1)[range(len(tokens)), list(tokens)].tolist()


def advantages_by_hand(scale=True):
    earned = [r - p for r, p in zip(BATCH.reward.tolist(), BATCH.penalty.tolist(), strict=True)]
    found = []
    for n in range(6):
        group = earned[n % 2 :: 2]
        mean = sum(group) / 3
        spread = math.sqrt(sum((r - mean) ** 2 for r in group) / 2) + 1e-4 if scale else 1.0
        found.append((earned[n] - mean) / spread)
    return found


def loss_by_hand(objective, old, now, refs, price):
    above = objective.clip if objective.clip_above is None else objective.clip_above
    n_tokens, total = sum(map(len, now)), 0.0
    for advantage, a, b, c in zip(advantages_by_hand(objective.scale), old, now, refs, strict=True):
        mean = sum(y - x for x, y in zip(a, b, strict=True)) / len(a)
        of_tokens = []
        for x, y, z in zip(a, b, c, strict=True):
            ratio = math.exp(mean if objective.ratio == "answer" else y - x)
            clipped = min(max(ratio, 1 - objective.clip), 1 + above)
            of_tokens.append(max(-ratio * advantage, -clipped * advantage) + price * (math.exp(z - y) - 1 - (z - y)))
        each = {"answers": len(a) * 6, "tokens": n_tokens, "length": LONGEST * 6}[objective.over]
        total += sum(of_tokens) / each
    return total


VARIANTS = {
    "grpo": {}, "warm": {"temperature": 0.7}, "dapo": {"over": "tokens", "clip_above": 0.28, "kl": 0.0},
    "dr grpo": {"over": "length", "scale": False, "kl": 0.0},
    "gspo": {"ratio": "answer", "clip": 0.02, "clip_above": 0.03, "kl": 0.0}, "gspo with kl": {"ratio": "answer"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_by_hand_after_some_steps(name):
    objective = GRPO(**VARIANTS[name], passes=2)
    of = models(moved=0.04)
    with torch.no_grad():
        batch = objective.prepare(BATCH, models())
        loss, metrics = objective.loss(of, batch, batch.counts())
    old, now, refs = (list(alone(each, objective.temperature)) for each in (models().policy, of.policy, of.reference))
    assert batch.advantage.tolist() == pytest.approx(advantages_by_hand(objective.scale), rel=1e-5)
    hand = loss_by_hand(objective, old, now, refs, 0.2 if objective.kl else 0.0)
    assert loss.item() == pytest.approx(hand, rel=1e-3, abs=1e-4)
    assert 0 < metrics["clipped"].item() < 1
    if objective.kl:
        kl = [sum(a) - sum(b) for a, b in zip(old, refs, strict=True)]
        assert metrics["kl"].item() == pytest.approx(sum(kl) / 6, rel=1e-3)
    assert ("kl" in metrics) == bool(objective.kl)


def test_answers_that_are_learnt_from_once_need_no_old_policy():
    """And without a price on KL no reference either: a forward pass less for each."""
    asked = []

    class Counting(Policy):
        def logps(self, *args, **kwargs):
            asked.append(torch.is_grad_enabled())
            return super().logps(*args, **kwargs)

    for passes, kl, before in ((1, 0.0, 0), (2, 0.0, 1), (1, 0.1, 2)):
        objective = GRPO(passes=passes, kl=kl)
        of = Models(*(Counting(tiny.model(seed=seed), tiny.tokenizer(), layout="packed") for seed in (1, 2)))
        asked.clear()
        with torch.no_grad():
            batch = objective.prepare(BATCH, of)
        assert len(asked) == before
        loss, metrics = objective.loss(of, batch, batch.counts())
        assert metrics["kl_to_old"] == metrics["clipped"] == 0
        assert asked[before:] == [True]
        assert ("reference" in objective.needed()) == bool(kl)
        loss.backward()


def test_learning_once_gives_the_gradient_of_the_old_policy_at_hand():
    found = []
    for passes in (1, 2):
        of, objective = models(), GRPO(kl=0.0, passes=passes)
        with torch.no_grad():
            batch = objective.prepare(BATCH, of)
        objective.loss(of, batch, batch.counts())[0].backward()
        found.append(torch.cat([p.grad.flatten() for p in of.policy.trainable()]))
    assert torch.allclose(*found, rtol=1e-4, atol=1e-7)


def test_a_group_that_agrees_teaches_nothing():
    of = models()
    batch = BATCH.having(reward=torch.tensor([0.1, 0.0] * 3), penalty=torch.zeros(6))
    with torch.no_grad():
        batch = GRPO(kl=0.0).prepare(batch, of)
    loss, _ = GRPO(kl=0.0).loss(of, batch, batch.counts())
    loss.backward()
    assert all(p.grad.abs().max() == 0 for p in of.policy.trainable())


PROMPTS = [{"prompt": f"say {word}", "answer": word} for word in ("ja", "no", "si", "da", "oui", "hai")]
FAST = {"batch_size": 3, "answers": 3, "max_new_tokens": 5, "steps": 3, "learning_rate": 1e-3}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"kl": 0.0}, {"adapter": "lora", "passes": 2}, {"over": "length", "ratio": "answer"}]
)
def test_as_a_stage(workshop, options):
    """Rewarded for short answers: a length that differs among random ones, so that there is something to learn."""
    rewards = {"functions": ["tests.methods.objectives.test_grpo:few_tokens"]}
    made = workshop.run("grpo", workshop.model(), workshop.rows(*PROMPTS), **FAST, **options, reward=rewards)
    final = made.facts["final"]
    assert all(math.isfinite(value) for value in final.values())
    assert {
        "reward",
        "finished",
        "answer_tokens",
        "kl_to_old",
        "entropy",
        "clipped",
        "grad_norm",
        "loss",
    } <= final.keys()
    assert ("kl" in final) == (options.get("kl") != 0.0)
    with torch.no_grad():
        moved = load_policy(made).logps(some()) - load_policy(workshop.model()).logps(some())
    assert moved.abs().max() > 1e-3


def few_tokens(output, row):
    """Deterministic, and different for most answers."""
    return -float(len(set(output.encode())))
