"""Losses on pairs without a reference agree with TRL's, where TRL takes what their papers say; else the difference is
the one that is documented."""

import math

import pytest
import torch

from posttrain.functional.preference import bradley_terry, log_odds
from posttrain.methods.objectives.cpo import CPO
from posttrain.methods.objectives.orpo import ORPO
from posttrain.methods.objectives.simpo import SimPO
from posttrain.models.policy import Models, Policy
from tests import tiny
from tests.agreement.beside_trl import (
    PAIRS,
    TEXTS,
    assert_agreement,
    datasets,
    grown,
    ours,
    settings,
    their_batch,
)

experimental = pytest.importorskip("trl.experimental.cpo")
odds = pytest.importorskip("trl.experimental.orpo")

SHORT = [(prompt[:1], good, bad) for prompt, good, bad in TEXTS]  # one token: nothing of the prompt is predicted


def cpo_trainer(tmp_path, **told):
    return experimental.CPOTrainer(
        tiny.model(seed=1), experimental.CPOConfig(**settings(tmp_path), **told),
        train_dataset=datasets.Dataset.from_list(PAIRS), processing_class=tiny.tokenizer(),
    )  # fmt: skip


def orpo_trainer(tmp_path, texts, **told):
    rows = [{"prompt": prompt, "chosen": good, "rejected": bad} for prompt, good, bad in texts]
    return odds.ORPOTrainer(
        tiny.model(seed=1), odds.ORPOConfig(**settings(tmp_path), **told),
        train_dataset=datasets.Dataset.from_list(rows), processing_class=tiny.tokenizer(),
    )  # fmt: skip


def theirs(trainer):
    return trainer.get_batch_loss_metrics(trainer.model, their_batch(trainer))[0]


def policy(layout="packed"):
    return Models(Policy(tiny.model(seed=1), tiny.tokenizer(), layout=layout))


SAME = {
    "cpo": (CPO(beta=0.3), {"beta": 0.3}),
    "cpo without cross-entropy": (CPO(beta=0.3, nll=0.0), {"beta": 0.3, "cpo_alpha": 0.0}),
    "simpo": (
        SimPO(beta=1.5, gamma=0.6),
        {"beta": 1.5, "loss_type": "simpo", "simpo_gamma": 0.6, "cpo_alpha": 0.0},
    ),
    "simpo with cross-entropy": (
        SimPO(beta=1.5, gamma=0.6, nll=0.4),
        {"beta": 1.5, "loss_type": "simpo", "simpo_gamma": 0.6, "cpo_alpha": 0.4},
    ),
}


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("name", SAME)
def test_cpo_and_simpo(tmp_path, name, layout):
    objective, told = SAME[name]
    trainer, models = cpo_trainer(tmp_path, **told), policy(layout)
    assert_agreement(models.policy, ours(objective, models, grown(TEXTS, 2)), trainer.model, theirs(trainer))


def test_simpo_is_the_paper_s_where_trl_s_own_defaults_add_cross_entropy(tmp_path):
    silent = theirs(cpo_trainer(tmp_path, beta=2.0, loss_type="simpo", simpo_gamma=1.0)).item()
    pure, more = (ours(SimPO(nll=nll), policy(), grown(TEXTS, 2)).item() for nll in (0.0, 1.0))
    assert silent == pytest.approx(more, rel=1e-4)
    assert more > pure + 1


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_orpo_where_no_prompt_is_predicted(tmp_path, layout):
    trainer, models = orpo_trainer(tmp_path, SHORT, beta=0.7), policy(layout)
    assert_agreement(models.policy, ours(ORPO(weight=0.7), models, grown(SHORT, 2)), trainer.model, theirs(trainer))


def test_odds_agree_whatever_the_prompt(tmp_path):
    """What two weights differ in."""
    trainer, models = orpo_trainer(tmp_path, TEXTS, beta=0.5), policy()
    chosen, rejected = trainer.concatenated_forward(trainer.model, their_batch(trainer))[:2]
    found = ours(ORPO(weight=1.0), models, grown(TEXTS, 2)) - ours(ORPO(weight=0.5), models, grown(TEXTS, 2))
    assert_agreement(models.policy, found, trainer.model, -trainer.odds_ratio_loss(chosen, rejected)[0].mean())


def test_orpo_s_cross_entropy_is_one_of_answers_where_trl_s_is_one_of_prompts_too(tmp_path):
    trainer = orpo_trainer(tmp_path, TEXTS)
    whole = trainer.concatenated_forward(trainer.model, their_batch(trainer))[4].item()
    lines = [tree.prompt + tree.branches[0].tokens for tree in grown(TEXTS, 2)]
    logits = [trainer.model(torch.tensor([line])).logits[0, :-1].log_softmax(-1) for line in lines]
    told = [z.gather(1, torch.tensor(line[1:])[:, None]).sum().item() for z, line in zip(logits, lines, strict=True)]
    assert whole == pytest.approx(-sum(told) / sum(len(line) - 1 for line in lines), rel=1e-5)
    answers = ours(ORPO(weight=1e-9), policy(), grown(TEXTS, 2)).item()
    assert abs(whole - answers) > 0.03


def test_odds_of_a_certain_pair_are_a_number_where_trl_s_are_none(tmp_path):
    certain = torch.zeros(1)
    assert math.isnan(orpo_trainer(tmp_path, SHORT).odds_ratio_loss(certain, certain)[0].item())
    assert bradley_terry(log_odds(certain), log_odds(certain)).item() == pytest.approx(math.log(2))
