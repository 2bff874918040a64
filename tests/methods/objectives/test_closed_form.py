"""On a bandit, gradients are what is summed over all answers, and policies end where the closed form says."""

from itertools import product

import pytest
import torch

from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit
from posttrain.methods.objectives.grpo import GRPO
from posttrain.methods.objectives.ppo import PPO
from posttrain.methods.objectives.rloo import RLOO
from tests.methods.objectives import bandit

EXACT = torch.tensor([1 / 2, 1 / 8, 1 / 8, 1 / 8, 1 / 8], dtype=torch.float64)
EIGHT = torch.tensor([0, 0, 0, 0, 1, 2, 3, 4])  # answers that are spread exactly so


def gradient(objective, batch, probabilities=EXACT, value=0.0):
    """Of the logits, by the objective's own loss."""
    of = bandit.models(probabilities, value)
    with torch.no_grad():
        batch = objective.prepare(batch, of)
    loss, _ = objective.loss(of, batch, batch.counts())
    loss.backward()
    return of.policy.logits.grad


def exact(gained, probabilities=EXACT):
    """The gradient of something that is summed over all answers."""
    policy = bandit.Table(probabilities.log())
    gained(policy).backward()
    return policy.logits.grad


def earned(policy):
    return (policy.logits.softmax(-1) * bandit.REWARDS).sum()


def forward_kl(policy):
    """KL(ref || pi)."""
    return (bandit.REFERENCE * (bandit.REFERENCE.log() - policy.logits.log_softmax(-1))).sum()


def expected(objective, n_answers, price):
    """The mean gradient over all ways to answer a prompt `n_answers` times."""
    total = torch.zeros_like(EXACT)
    for tokens in product(range(len(EXACT)), repeat=n_answers):
        chosen = torch.tensor(tokens)
        total += EXACT[chosen].prod() * gradient(objective, bandit.answered(chosen, price=price))
    return total


@pytest.mark.parametrize("n_answers", [2, 3])
def test_rloo_expects_the_exact_gradient(n_answers):
    found = expected(RLOO(), n_answers, bandit.PRICE)
    assert torch.allclose(found, -exact(bandit.gained), atol=1e-7)


@pytest.mark.parametrize("n_answers", [2, 3])
def test_grpo_expects_the_exact_gradient_less_what_an_answer_says_of_its_own_mean(n_answers):
    found = expected(GRPO(scale=False, kl=0), n_answers, 0.0)
    assert torch.allclose(found, -(1 - 1 / n_answers) * exact(earned), atol=1e-7)


def test_grpo_of_a_whole_distribution():
    """Divided by the spread of a sample; its KL pulls as KL(ref || pi) does, which is what k3 in a loss is a gradient of."""
    spread = bandit.REWARDS[EIGHT].std() + 1e-4
    pulled = bandit.PRICE * exact(forward_kl)
    for scale, divisor in ((False, 1.0), (True, spread)):
        found = gradient(GRPO(scale=scale), bandit.answered(EIGHT))
        assert torch.allclose(found, pulled - exact(earned) / divisor, atol=1e-7)


def test_the_length_of_an_answer_is_no_matter_where_all_have_the_same():
    found = [gradient(GRPO(over=over, ratio=ratio), bandit.answered(EIGHT)) for over in ("answers", "tokens", "length")
             for ratio in ("token", "answer")]  # fmt: skip
    assert all(torch.allclose(found[0], each, atol=1e-9) for each in found[1:])


@pytest.mark.parametrize("value", [0.0, 0.6, -20.0])
def test_ppo_of_a_whole_distribution(value):
    """Whitened, so that what the critic says of the one prompt is no matter, and the gradient is divided by a spread."""
    net = bandit.REWARDS - bandit.PRICE * (EXACT.log() - bandit.REFERENCE.log())
    spread = (net[EIGHT].var(correction=0) + 1e-8).sqrt()
    found = gradient(PPO(), bandit.answered(EIGHT), value=value)
    assert torch.allclose(found, -exact(bandit.gained) / spread, atol=1e-7)


def test_a_policy_that_has_arrived_is_left_there():
    """Where reward less KL is the same for every answer, nothing is better than expected."""
    best = bandit.REFERENCE * (bandit.REWARDS / bandit.PRICE).exp()
    best = best / best.sum()
    batch = bandit.answered(torch.arange(5))
    for objective in (PPO(), RLOO()):
        assert gradient(objective, batch, best).abs().max() < 1e-6
    assert exact(bandit.gained, best).abs().max() < 1e-12


def arrived(objective, tmp_path, **told):
    """The policy after some hundred steps, from the reference on."""
    of = bandit.models(bandit.REFERENCE)
    steps = Steps(250, 0.1, warmup=0, passes=objective.passes, minibatches=objective.minibatches, **told)
    fit(of, objective, bandit.Drawn(96), steps, Job(tmp_path, tmp_path))
    return of


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("method", [PPO, RLOO])
def test_reward_and_kl_lead_to_the_closed_form(method, passes, tmp_path):
    of, best = arrived(method(passes=passes), tmp_path), bandit.REFERENCE * (bandit.REWARDS / bandit.PRICE).exp()
    found = of.policy.probabilities()
    assert (found - best / best.sum()).abs().sum() / 2 < 0.02
    assert (bandit.REFERENCE - best / best.sum()).abs().sum() / 2 > 0.3
    if method is PPO:  # what is earned after the price of KL: b log Z
        assert of.critic.model.value.item() == pytest.approx(float(bandit.PRICE * best.sum().log()), abs=0.05)


@pytest.mark.slow
def test_grpo_leads_to_the_closed_form_of_its_own_kl(tmp_path):
    """Where E[r] - b KL(ref || pi) is greatest: pi = b ref / (b + m - r), with m such that it sums to 1."""
    of = arrived(GRPO(scale=False), tmp_path)
    found = of.policy.probabilities()
    mean = (found * bandit.REWARDS).sum()
    own = bandit.PRICE * bandit.REFERENCE / (bandit.PRICE + mean - bandit.REWARDS)
    other = bandit.REFERENCE * (bandit.REWARDS / bandit.PRICE).exp()
    assert (found - own / own.sum()).abs().sum() / 2 < 0.02
    assert (found - other / other.sum()).abs().sum() / 2 > 0.04
