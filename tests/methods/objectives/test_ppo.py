"""PPO by hand: answers one by one, whole logits, plain loops."""

import math
from dataclasses import replace

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.engine.method import stage_class
from posttrain.functional.layout import Branch, Tree
from posttrain.methods.objectives.ppo import PPO
from posttrain.models.load import load_policy
from posttrain.models.policy import Models, Policy
from posttrain.models.scorer import Scorer
from posttrain.schema.settings import problems
from tests import tiny
from tests.rolled import rolled, some

TREES = (
    Tree((5, 6), tuple(Branch(tokens, (True,) * len(tokens)) for tokens in ((9, 10, 2), (7, 2), (8, 8, 8, 8)))),
    Tree((5,), (Branch((11, 12, 2), (True, True, True)),)),
)
BATCH = rolled(
    TREES,  # branch by branch: the first branches of both trees, then the others of the first
    reward=[1.0, -0.5, 2.0, 7.0], finished=[1.0, 1.0, 1.0, 0.0], penalty=[0.0, 0.0, 0.0, 0.3], kl_coefficient=[0.2] * 4,
)  # fmt: skip


def near(model, noise, seed=4):
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(noise * p.std() * torch.randn(p.shape, generator=draw))
    return model


def models(moved: float = 0.0) -> Models:
    """The policy and the critic as they wrote and judged, or after some steps."""
    policy, reference = (Policy(tiny.model(seed=seed), tiny.tokenizer(), layout="packed") for seed in (1, 2))
    critic = Scorer(tiny.reward_model(seed=3), tiny.tokenizer(), layout="packed", offset=0.25)
    near(policy.model, moved), near(critic.model, moved)
    return Models(policy, reference, critic)


@torch.no_grad()
def alone(of: Models, batch: Batch, t: float):
    """(logps, reference's, values, the value behind the end) of each answer, lists of numbers."""
    paths = [
        (tree.prompt, branch.tokens) for n in range(3) for tree in batch.trees for branch in tree.branches[n : n + 1]
    ]
    for prompt, tokens in paths:
        ids, start = torch.tensor([[*prompt, *tokens]]), len(prompt) - 1
        logps = [
            (each.model(ids).logits[0, start:-1] / t).log_softmax(-1)[range(len(tokens)), list(tokens)].tolist()
            for each in (of.policy, of.reference)
        ]
        hidden = of.critic.model.model(ids).last_hidden_state[0]
        scores = (hidden @ of.critic.model.score.weight[0] - of.critic.offset).tolist()
        yield *logps, scores[start:-1], scores[-1]


def advantages_by_hand(batch, of, t, gamma, lam):
    """(advantages, returns), a list an answer, not whitened."""
    found = []
    for n, (logps, refs, values, behind) in enumerate(alone(of, batch, t)):
        ended = batch.finished[n].item() == 1
        rewards = [-0.2 * (a - b) for a, b in zip(logps, refs, strict=True)]
        rewards[-1] += (batch.reward[n].item() if ended else 0.0) - batch.penalty[n].item()
        following, carried, advantages = 0.0 if ended else behind, 0.0, []
        for reward, value in zip(reversed(rewards), reversed(values), strict=True):
            carried = reward + gamma * following - value + gamma * lam * carried
            following = value
            advantages.insert(0, carried)
        found.append((advantages, [a + v for a, v in zip(advantages, values, strict=True)]))
    return found


def flat(lists):
    return [value for each in lists for value in each]


@pytest.mark.parametrize("t", [1.0, 0.7])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5)])
def test_what_is_prepared_by_hand(t, gamma, lam):
    """Policy, old policy and reference are all read at the temperature of the draws."""
    of = models()
    with torch.no_grad():
        batch = PPO(temperature=t, gamma=gamma, lam=lam).prepare(BATCH, of)
    hand = advantages_by_hand(BATCH, of, t, gamma, lam)
    logps, refs, values, _ = zip(*alone(of, BATCH, t), strict=True)
    assert batch.old.tolist() == pytest.approx(flat(logps), rel=1e-4)
    assert batch.value.tolist() == pytest.approx(flat(values), rel=1e-3, abs=1e-4)
    assert batch.kl.tolist() == pytest.approx([sum(a) - sum(b) for a, b in zip(logps, refs, strict=True)], rel=1e-4)
    returns, plain = torch.tensor(flat(r for _, r in hand)), torch.tensor(flat(a for a, _ in hand))
    assert torch.allclose(batch.returned, returns, rtol=1e-3, atol=1e-4)
    white = (plain - plain.mean()) / plain.std(correction=0)
    assert torch.allclose(batch.advantage, white, rtol=1e-3, atol=1e-3)
    told = torch.tensor(flat(values))
    explained = 1 - (returns - told).var(correction=0) / returns.var(correction=0)
    assert batch.explained.tolist() == pytest.approx([explained.item()] * 4, rel=1e-3)
    assert batch.spread.tolist() == pytest.approx([returns.std(correction=0).item()] * 4, rel=1e-3)


@pytest.mark.parametrize("t", [1.0, 0.7])
def test_the_loss_by_hand_after_some_steps(t):
    """Some ratios and some values are outside of their clips, and some inside."""
    objective = PPO(temperature=t, clip=0.1, value_clip=0.05, value_weight=0.3)
    with torch.no_grad():
        batch = objective.prepare(BATCH, models())
        of = models(moved=0.05)
        loss, metrics = objective.loss(of, batch, batch.counts())
    now, _, values, _ = zip(*alone(of, BATCH, t), strict=True)
    surrogate, errors, held, entropy = 0.0, 0.0, 0, 0.0
    of_tokens = zip(flat(now), flat(values), batch.old, batch.value, batch.advantage, batch.returned, strict=True)
    for logp, value, old, before, advantage, wanted in of_tokens:
        ratio, a = math.exp(logp - old), advantage.item()
        clipped = min(max(ratio, 0.9), 1.1)
        surrogate += max(-ratio * a, -clipped * a)
        held += -clipped * a > -ratio * a
        near_old = before.item() + min(max(value - before.item(), -0.05), 0.05)
        errors += max((value - wanted.item()) ** 2, (near_old - wanted.item()) ** 2) / 2
        entropy -= old.item()
    n = len(batch.old)
    assert 0 < held < n
    assert loss.item() == pytest.approx((surrogate + 0.3 * errors) / n, rel=1e-3, abs=1e-4)
    assert metrics["value_loss"].item() == pytest.approx(errors / n, rel=1e-3)
    assert metrics["clipped"].item() == pytest.approx(held / n)
    assert metrics["entropy"].item() == pytest.approx(entropy / n, rel=1e-4)
    assert metrics["kl"].item() == pytest.approx(batch.kl.mean().item(), rel=1e-4)
    assert metrics["kl_to_old"].item() > 0


def prepared(batch: Batch, **options) -> Batch:
    with torch.no_grad():
        return PPO(**options).prepare(batch, models())


def test_a_score_stands_at_the_last_token_of_an_answer_that_ended():
    """One point more for the first answer: with l = 1 every token of it gains, with l = 0 only the last."""
    more = BATCH.having(reward=BATCH.reward + torch.tensor([1.0, 0.0, 0.0, 0.0]))
    gains = [prepared(more, lam=lam).returned - prepared(BATCH, lam=lam).returned for lam in (1.0, 0.0)]
    assert gains[0].tolist() == pytest.approx([1, 1, 1] + [0] * 9, abs=1e-5)
    assert gains[1].tolist() == pytest.approx([0, 0, 1] + [0] * 9, abs=1e-5)


def test_an_answer_that_was_cut_off_is_not_judged_and_pays_for_it():
    """Its reward is no matter, its price is; behind it the critic is asked."""
    other = prepared(BATCH.having(reward=torch.tensor([1.0, -0.5, 2.0, -100.0])))
    assert torch.equal(other.returned, prepared(BATCH).returned)
    dearer = prepared(BATCH.having(penalty=torch.tensor([0.0, 0.0, 0.0, 1.3])))
    paid = (dearer.returned - prepared(BATCH).returned).tolist()
    assert paid == pytest.approx([0] * 8 + [-(0.95**k) for k in (3, 2, 1, 0)], abs=1e-5)
    as_if_ended = prepared(BATCH.having(finished=torch.ones(4), reward=torch.tensor([1.0, -0.5, 2.0, 0.0])))
    behind = [each[3] for each in alone(models(), BATCH, 1.0)][3]
    gained = (prepared(BATCH).returned - as_if_ended.returned).tolist()
    assert gained == pytest.approx([0] * 8 + [behind * 0.95**k for k in (3, 2, 1, 0)], abs=1e-4)
    assert abs(behind) > 0.1


def test_the_price_of_kl_stands_at_every_token():
    returns = {
        price: prepared(BATCH.having(kl_coefficient=torch.full((4,), price)), lam=1.0).returned for price in (0.0, 0.5)
    }
    refs = [b for _, b, _, _ in alone(models(), BATCH, 1.0)]
    ours = [a for a, _, _, _ in alone(models(), BATCH, 1.0)]
    paid = []
    for a, b in zip(ours, refs, strict=True):
        each = [x - y for x, y in zip(a, b, strict=True)]
        paid += [-0.5 * sum(each[n:]) for n in range(len(each))]
    assert (returns[0.5] - returns[0.0]).tolist() == pytest.approx(paid, rel=1e-3, abs=1e-3)


def test_a_first_update_is_a_plain_policy_gradient():
    """No ratio has moved: nothing is clipped, and the gradient is that of mean(-A log pi)."""
    of = models()
    batch = prepared(BATCH)
    loss, metrics = PPO(value_weight=0.0).loss(of, batch, batch.counts())
    loss.backward()
    found = [p.grad.clone() for p in of.policy.trainable()]
    assert metrics["clipped"] == metrics["kl_to_old"] == 0
    again = models()
    (-(batch.advantage * again.policy.logps(batch)).mean()).backward()
    for gradient, p in zip(found, again.policy.trainable(), strict=True):
        assert torch.allclose(gradient, p.grad, rtol=1e-4, atol=1e-6)


def test_the_critic_s_loss_moves_the_critic_alone():
    norms = []
    for weight in (0.0, 0.5, 1.0):
        of, batch = models(), prepared(BATCH)
        loss, _ = PPO(value_weight=weight).loss(of, batch, batch.counts())
        loss.backward()
        norms.append([torch.cat([p.grad.flatten() for p in each.trainable() if p.grad is not None]).norm().item()
                      for each in (of.policy, of.critic)])  # fmt: skip
        assert all(p.grad is None for p in of.reference.model.parameters())
    (ours, none), (same, half), (again, whole) = norms
    assert ours == pytest.approx(same) == pytest.approx(again)
    assert none == 0
    assert whole == pytest.approx(2 * half)


def test_text_that_is_cut_off_at_the_end_of_the_model_is_read_at_its_last_token():
    """An answer may be one token longer than what the model has places for."""
    policy, reference, critic = (
        kind(made("gpt2", seed=seed, max_position_embeddings=8), tiny.tokenizer())
        for kind, made, seed in ((Policy, tiny.model, 1), (Policy, tiny.model, 2), (Scorer, tiny.reward_model, 3))
    )
    full = Tree((5, 6), (Branch((7, 8, 9, 10, 11, 12, 13), (True,) * 7), Branch((9, 2), (True, True))))
    batch = rolled((full,), finished=[0.0, 1.0])
    with torch.no_grad():
        made = PPO(lam=0.0).prepare(batch, Models(policy, reference, critic))
        shorter = replace(full, branches=(Branch(full.branches[0].tokens[:6], (True,) * 6),))
        behind = critic.rewards(Batch((shorter,))).item()
    last = made.returned[6].item()
    kl = (made.old[6] - reference.logps(batch)[6]).item()
    assert last == pytest.approx(behind - 0.3 - 0.1 * kl, rel=1e-3)


PROMPTS = [{"prompt": f"say {word}", "answer": word} for word in ("ja", "no", "si", "da", "oui", "hai")]
RANKED = [{"prompt": f"rank {w}", "answers": [w[:4], w[:2]], "scores": [2.0, 1.0]} for w in ("abcd", "wxyz", "mnop")]
FAST = {"batch_size": 3, "answers": 2, "max_new_tokens": 5, "steps": 3, "learning_rate": 1e-3}


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, "lora"])
def test_as_a_stage_with_a_reward_model_and_text_mixed_in(workshop, adapter):
    model, data = workshop.model(), workshop.rows(*PROMPTS)
    told = {"adapter": adapter} if adapter else {}
    reward = workshop.run("reward", model, workshop.rows(*RANKED), steps=2, learning_rate=1e-2, batch_size=2, **told)
    made = workshop.run(
        "ppo", model, data, **FAST, **told, passes=2, minibatches=2, missing_end=0.5, mix={"data": "given"},
        reward={"model": "given", "functions": [{"exact": {"weight": 0.5}}]},
        inputs={"reward.model": reward, "mix.data": workshop.rows({"text": "Some words to keep in mind."})},
    )  # fmt: skip
    assert made.form == ("adapter" if adapter else "dense")
    assert made.facts["trained_weights"] <= made.facts["critic_weights"] + 300 * 32  # which has no head of words
    assert (made.facts["trained_share"] < 0.5) if adapter else (made.facts["trained_share"] == 1)
    final = made.facts["final"]
    known = {"reward", "reward_model", "reward_exact", "finished", "answer_tokens", "kl", "kl_to_old", "entropy", "clipped",
             "value_loss", "explained_variance", "returns_spread", "mixed_in", "grad_norm", "critic_grad_norm", "loss",
             "kl_coefficient"}  # fmt: skip
    assert known <= final.keys()
    assert all(math.isfinite(value) for value in final.values())
    batch = some()
    with torch.no_grad():
        moved = load_policy(made).logps(batch) - load_policy(model).logps(batch)
    assert moved.abs().max() > 1e-3
    if adapter:  # neither the critic nor the reward model is saved with it
        from safetensors import safe_open

        with safe_open(made.path / "adapter_model.safetensors", "pt") as file:
            assert not [name for name in file.keys() if "critic" in name or "reward" in name or "score" in name]  # noqa: SIM118


@pytest.mark.slow
def test_layers_that_are_computed_again_change_nothing(workshop):
    """Not where policy and critic share a base either."""
    model, data = workshop.model(), workshop.rows(*PROMPTS)
    reward = workshop.run("reward", model, workshop.rows(*RANKED), steps=2, learning_rate=1e-2, adapter="lora")
    known = [
        workshop.run(
            "ppo", model, data, **FAST, adapter="lora", gradient_checkpointing=again, passes=2,
            reward={"model": "given"}, inputs={"reward.model": reward},
        ).facts["final"]
        for again in (False, True)
    ]  # fmt: skip
    assert known[0] == pytest.approx(known[1], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reward": {}}, "nothing is rewarded"),
        ({"kl": 0, "kl_target": 3.0}, "needs a `kl` to begin with"),
        ({"keep": {"replay": {"data": "x.jsonl"}}}, "write `mix: {data: …}` instead"),
        ({"stop_early": {"on": "x.jsonl"}}, "set `steps`, or watch `forget`"),
    ],
)
def test_what_cannot_work_is_said_with_a_cure(options, said):
    found = problems(stage_class("ppo"), {"data": "rows.jsonl", "reward": {"functions": ["exact"]}, **options})
    assert any(said in str(problem) for _, problem in found), found
