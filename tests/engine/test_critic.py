"""Reward models and critics beside a policy: what they begin as, what they share, what learns and what stays as it is."""

import copy

import pytest
import torch

from posttrain.engine import critic as critics
from posttrain.engine.job import Job
from posttrain.engine.loop import Steps, fit, shares
from posttrain.engine.store import Store
from posttrain.methods.objectives.ppo import PPO
from posttrain.models.activations import checkpoint_layers
from posttrain.models.adapters import NAME, TIMES, Adapter, attach
from posttrain.models.load import load_scorer, load_tokenizer, load_weights
from posttrain.models.policy import Models, Policy
from tests import rolled
from tests.methods.conftest import Workshop

RANKED = [{"prompt": f"rank {w}", "answers": [w[:4], w[:2]], "scores": [2.0, 1.0]} for w in ("abcd", "wxyz", "mnop")]
BATCH = rolled.some()
POLICIES = {
    "full": None, "lora": "lora", "pissa": {"lora": {"init": "pissa"}}, "ia3": "ia3", "osf": "osf",
    "prompt": {"prompt": {"tokens": 4}}, "prefix": {"prefix": {"tokens": 4}}, "p_tuning": {"p_tuning": {"tokens": 4}},
}  # fmt: skip
REWARDS = {
    "dense": (0, None),
    "lora": (0, "lora"),
    "elsewhere": (5, "lora"),
    "ia3": (0, "ia3"),
    "prompt": (0, "prompt"),
}
SHARED = {("lora", "lora"), ("ia3", "ia3")}  # with these, the reward model is on the policy's own base


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("critics")
    return Workshop(Store(folder / "store"), folder)


@pytest.fixture(scope="module")
def rewards(workshop):
    """Trained reward models by name, made when asked for."""

    def made(name):
        seed, adapter = REWARDS[name]
        told = {"adapter": adapter} if adapter else {}
        options = {"steps": 2, "learning_rate": 1e-2, "batch_size": 4, **told}
        return workshop.run("reward", workshop.model(seed), workshop.rows(*RANKED), **options)

    return made


def policy_of(model, kind):
    weights, tokenizer, adapter = load_weights(model), load_tokenizer(model), POLICIES[kind]
    if adapter:
        weights = attach(weights, Adapter.model_validate(adapter), tokenizer, seed=0)
    return Policy(weights, tokenizer, adapter=NAME if adapter else None)


def beside(model, kind, reward=None):
    """Policy, frozen reward model and critic."""
    policy = policy_of(model, kind)
    scorer = critics.reward_model(reward, model, policy) if reward else None
    return policy, scorer, critics.critic(model, policy, reward, scorer, seed=3)


@torch.no_grad()
def read(scorer):
    return torch.cat([scorer.rewards(BATCH), scorer.values(BATCH)])


def n_weights(*models):
    return sum({id(p): p.numel() for model in models for p in model.parameters()}.values())


PAIRS = [("full", None), ("full", "dense"), ("full", "lora"), ("full", "prompt"), ("lora", None), ("lora", "dense"),
         ("lora", "lora"), ("lora", "elsewhere"), ("lora", "ia3"), ("lora", "prompt"), ("pissa", None), ("pissa", "lora"),
         ("ia3", "ia3"), ("ia3", "lora"), ("osf", "dense"), ("prefix", None), ("prompt", "dense"), ("p_tuning", "lora")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "reward"), PAIRS)
def test_all_begin_as_they_are_alone(workshop, rewards, kind, reward):
    """The policy as without the others, the reward model as loaded, the critic as the reward model, or with nothing."""
    model = workshop.model()
    policy, scorer, critic = beside(model, kind, rewards(reward) if reward else None)
    with torch.no_grad():
        assert torch.equal(policy.logps(BATCH), policy_of(model, kind).logps(BATCH))
    if scorer is None:
        assert read(critic).abs().max() == 0
        return
    alone = load_scorer(rewards(reward))
    assert torch.allclose(read(scorer), read(alone), atol=1e-6)
    assert read(scorer).abs().max() > 0
    repeats = reward != "prompt"  # whose virtual tokens take places of the context: that critic begins with nothing
    assert torch.allclose(read(critic), read(alone) if repeats else torch.zeros(()), atol=1e-6)
    assert (scorer.model is policy.model) == ((kind, reward) in SHARED)


def test_one_base_in_memory_serves_all_four(workshop, rewards):
    model = workshop.model()
    policy, scorer, critic = beside(model, "lora", rewards("lora"))
    reference = Policy(policy.model, policy.tokenizer, adapter=None, layout=policy.layout)
    alone = policy_of(model, "lora").model
    adapter = n_weights(alone) - n_weights(load_weights(model))
    everything = n_weights(*(each.model for each in (policy, scorer, critic, reference)))
    assert everything == n_weights(alone) + 2 * adapter
    assert everything < 2 * n_weights(load_weights(model)) + 3 * adapter


TRAINED = [("full", "dense"), ("full", "lora"), ("lora", None), ("lora", "lora"), ("lora", "dense"),
           ("lora", "elsewhere"), ("ia3", "ia3"), ("pissa", "lora"), ("prefix", "dense")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "reward"), TRAINED)
def test_policy_and_critic_learn_and_nothing_else_does(workshop, rewards, kind, reward, tmp_path):
    model = workshop.model()
    policy, scorer, critic = beside(model, kind, rewards(reward) if reward else None)
    reference = policy_of(model, kind)
    reference.model.requires_grad_(False)
    models, before = Models(policy, reference, critic), read(scorer) if scorer else None
    everything = {id(p): p for each in (policy, scorer, critic) if each for p in each.model.parameters()}
    trained, (ours, theirs) = (
        {id(p) for p in models.trained().values()},
        ({id(p) for p in each.trainable()} for each in (policy, critic)),
    )
    assert trained == ours | theirs
    assert not ours & theirs
    critics.learn_at(critic, 5.0)
    assert {getattr(p, TIMES, 1.0) for p in policy.trainable()} == {1.0}
    frozen = {key: (p, p.detach().clone()) for key, p in everything.items() if key not in trained}
    start, valued = policy.logps(BATCH).detach(), read(critic)
    fit(models, PPO(), rolled.Again(BATCH), Steps(3, 1e-2, warmup=0), Job(tmp_path, tmp_path))
    assert (policy.logps(BATCH) - start).abs().max() > 1e-3
    assert (read(critic) - valued).abs().max() > 1e-3
    if scorer:
        assert torch.equal(read(scorer), before)
    for parameter, value in frozen.values():
        assert parameter.grad is None
        assert torch.equal(parameter, value)
    assert all(p.requires_grad for p in models.trained().values())


def test_a_critic_that_errs_much_does_not_slow_the_policy_down(workshop, tmp_path):
    """Their gradients are cut to length each for itself, on one base too."""
    told = []
    for weight in (0.0, 1e4):
        policy, _, critic = beside(workshop.model(), "lora")
        seen: list[dict] = []
        job = Job(tmp_path, tmp_path / str(weight), emit=lambda kind, seen=seen, **f: seen.append(f))
        models = Models(policy, policy_of(workshop.model(), "lora"), critic)
        fit(models, PPO(value_weight=weight), rolled.Again(BATCH), Steps(1, 1e-2, warmup=0), job)
        told.append((seen[-1]["grad_norm"], seen[-1]["critic_grad_norm"], policy.logps(BATCH).detach()))
    (norm, none, free), (same, much, beside_much) = told
    assert norm == pytest.approx(same)
    assert none == 0
    assert much > 100
    assert torch.allclose(free, beside_much, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_layers_that_are_computed_again_are_those_of_who_asked(workshop, rewards, kind):
    """The backward pass comes when another adapter may answer."""
    found = []
    for again in (False, True):
        policy, _, critic = beside(workshop.model(), kind, rewards("lora"))
        if again:
            checkpoint_layers(policy.model)
            if critic.model is not policy.model:
                checkpoint_layers(critic.model)
        with torch.no_grad():  # adapters that begin alike would hide a mistake
            for n, p in enumerate(policy.trainable()):
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(n)))
        models = Models(policy, policy_of(workshop.model(), kind), critic)
        with torch.no_grad():
            batch = PPO().prepare(BATCH, models)
        shares(models, PPO(), batch, 10**6)
        found.append({name: p.grad.clone() for name, p in models.trained().items()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-4, atol=1e-6), name
    assert all(
        any(g.norm() > 1e-4 for n, g in found[1].items() if part in n)
        for part in (".", "head" if kind == "lora" else "critic")
    )


def test_a_reward_model_that_reads_other_tokens_is_no_critic(workshop, rewards):
    model, reward = workshop.model(), rewards("dense")
    for kind in ("full", "lora"):
        policy = policy_of(model, kind)
        scorer = critics.reward_model(reward, model, policy)
        scorer.tokenizer = copy.deepcopy(scorer.tokenizer)
        scorer.tokenizer.add_tokens(["<|more|>"])
        assert not critics.reads_the_same(scorer, policy)
        critic = critics.critic(model, policy, reward, scorer, seed=0)
        assert read(critic).abs().max() == 0 < read(scorer).abs().max()
        assert critic.model is not scorer.model


def test_a_reward_model_of_another_family_carries_the_critic(workshop):
    """Of other names and another width."""
    gpt = workshop.model(family="gpt2")
    reward = workshop.run("reward", gpt, workshop.rows(*RANKED), steps=2, learning_rate=1e-2)
    policy, scorer, critic = beside(workshop.model(), "lora", reward)
    assert torch.allclose(read(critic), read(scorer), atol=1e-6)
    assert critic.model is scorer.model is not policy.model
    policy.logps(BATCH).sum().backward()
    critic.values(BATCH).sum().backward()
    assert all(p.grad is not None for p in [*policy.trainable(), *critic.trainable()])


def test_a_critic_is_drawn_by_its_seed_alone(workshop):
    drawn = []
    for seed in (3, 3, 4):
        policy = policy_of(workshop.model(), "lora")
        torch.manual_seed(len(drawn))
        state = torch.random.get_rng_state()
        critic = critics.critic(workshop.model(), policy, None, None, seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        drawn.append(torch.cat([p.detach().flatten() for p in critic.trainable()]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
