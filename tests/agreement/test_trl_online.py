"""GRPO, its variants and RLOO agree with TRL's trainers, which are given the same answers and rewards: from rewards to
advantages, log-ratios, clip, KL and the mean over tokens, in loss and gradient."""

from typing import Any

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.functional.layout import Branch, Tree
from posttrain.functional.policy_gradient import k3
from posttrain.methods.objectives.grpo import GRPO
from posttrain.methods.objectives.rloo import RLOO
from posttrain.models.policy import Models, Policy
from tests import tiny
from tests.agreement.beside_trl import assert_agreement, datasets, trl

END = tiny.tokenizer().eos_token_id
PROMPTS = ["2 + 3 = ", "Name a colour that one sees in a clear sky: "]
ANSWERS = [["5", "7, I think", "5 or so, or "], ["blue, on most days", "no", "blue"]]
CUT = {(0, 2), (1, 1)}  # end without EOS
REWARDS = [[1.0, 0.0, 0.4], [0.3, -2.0, 1.0]]
LONGEST = 24


def tokens(prompt: int, answer: int) -> tuple[int, ...]:
    ids = tuple(tiny.tokenizer()(ANSWERS[prompt][answer])["input_ids"])
    return ids if (prompt, answer) in CUT else (*ids, END)


def near(noise: float, seed: int) -> Any:
    """The model, or one near it."""
    model, draw = tiny.model(seed=1), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * parameter.std() * torch.randn(parameter.shape, generator=draw))
    return model


NOISE = {"new": (0.0, 0), "old": (0.02, 2), "reference": (0.04, 3)}


def theirs(tmp_path, kind, moved, **told):
    """(model, loss) of TRL: the model writes and is scored as it was, and learns as it is."""
    folder, n = tmp_path / "reference", len(ANSWERS[0])
    near(*NOISE["reference"]).save_pretrained(folder)
    model = near(*NOISE["old" if moved else "new"])
    model.config._name_or_path = str(folder)
    config, trainer_class = getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")
    args = config(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        per_device_train_batch_size=n * len(PROMPTS), num_generations=n, max_completion_length=LONGEST, max_steps=2,
        num_iterations=2 if moved else 1, **told,
    )  # fmt: skip
    rewards = [value for each in REWARDS for value in each]
    rows = [{"prompt": prompt} for prompt in PROMPTS for _ in range(n)]
    trainer = trainer_class(
        model, reward_funcs=[lambda completions, **_: rewards], args=args,
        train_dataset=datasets.Dataset.from_list(rows), processing_class=tiny.tokenizer(),
    )  # fmt: skip
    written = [list(tokens(p, a)) for p in range(len(PROMPTS)) for a in range(n)]
    trainer._generate_single_turn = lambda *_: (written, None) if kind == "GRPO" else written
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    inputs = trainer._generate_and_score_completions(rows)
    assert ("old_per_token_logps" in inputs or "old_logps" in inputs) == (moved or kind == "RLOO")
    model.load_state_dict(near(*NOISE["new"]).state_dict())
    return model, trainer.compute_loss(model, inputs)


def rolled(price: float) -> Batch:
    texts = [tuple(tiny.tokenizer()(prompt)["input_ids"]) for prompt in PROMPTS]
    trees = tuple(
        Tree(ids, tuple(Branch(t, (True,) * len(t)) for t in (tokens(p, a) for a in range(len(ANSWERS[p])))))
        for p, ids in enumerate(texts)
    )
    batch = Batch(trees)
    n = len(batch)
    return batch.having(
        reward=torch.tensor(REWARDS).T.flatten(),
        finished=torch.ones(n),
        penalty=torch.zeros(n),
        group=batch.tree_of,
        longest=torch.full((n,), LONGEST),
        kl_coefficient=torch.full((n,), price),
    )


def policies(moved: bool, layout: str = "packed") -> list[Policy]:
    """As it was when it wrote the answers, as it is, and the reference."""
    names = ("old" if moved else "new", "new", "reference")
    return [Policy(near(*NOISE[name]), tiny.tokenizer(), layout=layout) for name in names]


def ours(objective, moved, price, layout="packed"):
    """(policy, loss, metrics): prepared with the policy that wrote the answers."""
    old, new, reference = policies(moved, layout)
    with torch.no_grad():
        batch = objective.prepare(rolled(price), Models(old, reference))
    loss, metrics = objective.loss(Models(new, reference), batch, batch.counts())
    return new, loss, metrics


PLAIN = {"loss_type": "grpo", "use_bias_correction_kl": False}
SAME = {
    "grpo": (GRPO, {"kl": 0.04}, {**PLAIN, "beta": 0.04}),
    "grpo without kl": (GRPO, {"kl": 0.0}, {**PLAIN, "beta": 0.0}),
    "grpo warm": (GRPO, {"kl": 0.2, "temperature": 0.7}, {**PLAIN, "beta": 0.2, "temperature": 0.7}),
    "dapo": (
        GRPO,
        {"kl": 0.0, "over": "tokens", "clip_above": 0.28},
        {"loss_type": "dapo", "beta": 0.0, "epsilon_high": 0.28},
    ),
    "dapo with kl": (GRPO, {"kl": 0.04, "over": "tokens"}, {**PLAIN, "loss_type": "dapo", "beta": 0.04}),
    "dr grpo": (
        GRPO,
        {"kl": 0.0, "over": "length", "scale": False},
        {"loss_type": "dr_grpo", "beta": 0.0, "scale_rewards": "none"},
    ),
    "gspo": (
        GRPO,
        {"kl": 0.0, "ratio": "answer", "clip": 3e-3, "clip_above": 4e-3},
        {**PLAIN, "beta": 0.0, "importance_sampling_level": "sequence", "epsilon": 3e-3, "epsilon_high": 4e-3},
    ),
    "rloo": (RLOO, {"kl": 0.05}, {"beta": 0.05}),
    "rloo without kl": (RLOO, {"kl": 0.0}, {"beta": 0.0}),
    "rloo warm": (RLOO, {"kl": 0.3, "temperature": 1.4}, {"beta": 0.3, "temperature": 1.4}),
}


SUMS = 3e-5  # TRL's RLOO subtracts sums of up to 140 nats, whose fifth digit is lost where they differ little


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, True], ids=["as drawn", "moved"])
@pytest.mark.parametrize("name", SAME)
def test_loss_and_gradient(tmp_path, name, moved):
    method, said, told = SAME[name]
    model, their_loss = theirs(tmp_path, method.__name__, moved, **told)
    policy, loss, metrics = ours(method(**said, passes=1 + moved), moved, said["kl"])
    if moved:  # what is compared has both: what is learnt from, and what is held back
        assert 0 < float(metrics["clipped"]) < 0.9
    assert_agreement(policy, loss, model, their_loss, SUMS if method is RLOO else 1e-5)


def test_in_padded_rows_too(tmp_path):
    model, their_loss = theirs(tmp_path, "GRPO", True, **PLAIN, beta=0.04)
    policy, loss, _ = ours(GRPO(passes=2), True, 0.04, layout="padded")
    assert_agreement(policy, loss, model, their_loss)


@pytest.mark.parametrize("moved", [False, True], ids=["as drawn", "moved"])
def test_trl_weighs_the_kl_estimate_by_the_ratio_where_the_paper_does_not(tmp_path, moved):
    """By default, since 1.16. It makes the gradient one of KL(pi || ref); the paper's is one of KL(ref || pi)."""
    assert trl.GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[]).use_bias_correction_kl
    model, their_loss = theirs(tmp_path, "GRPO", moved, loss_type="grpo", beta=0.5)
    policy, loss, _ = ours(GRPO(passes=1 + moved), moved, 0.5)
    batch, (old, _, reference) = rolled(0.5), policies(moved)
    with torch.no_grad():
        before, theirs_of_it = (each.logps(batch) for each in (old, reference))
    logps = policy.logps(batch)
    estimate, weighed = k3(logps, theirs_of_it), (logps - before).exp() - 1
    more = 0.5 * (batch.per_answer(weighed * estimate) / batch.n_trained).mean()
    assert_agreement(policy, loss + more, model, their_loss)
    if not moved:
        assert more.item() == 0  # the difference shows in the gradient alone


def test_trl_s_own_defaults_are_dapo_s_without_a_reference(tmp_path):
    said = trl.GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[])
    assert (said.loss_type, said.beta, said.epsilon, said.scale_rewards) == ("dapo", 0.0, 0.2, "group")
    assert trl.RLOOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[]).beta == 0.05 == RLOO().kl
