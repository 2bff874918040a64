"""posttrain and TRL give the same loss and the same gradients on the same weights and rows."""

import math

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.methods.objectives.dpo import DPO
from posttrain.methods.objectives.ipo import IPO
from posttrain.methods.objectives.sft import SFT
from posttrain.models.policy import Models, Policy
from tests import tiny
from tests.agreement.beside_trl import (
    PAIRS,
    TEXTS,
    assert_agreement,
    datasets,
    grown,
    ours,
    policy_and_reference,
    settings,
    their_batch,
    trl,
)

LAYOUTS = ["packed", "padded", "logits"]
SAME = {  # of DPO's family, by what TRL is told
    "sigmoid": (DPO(beta=0.3), {}),
    "hinge": (DPO(beta=0.3, loss_type="hinge"), {}),
    "robust": (DPO(beta=0.3, loss_type="robust", label_smoothing=0.2), {"label_smoothing": 0.2}),
    "ipo": (IPO(beta=0.3), {}),
    "sigmoid and sft": (DPO(beta=0.3, nll=0.3), {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}),
}


def dpo_trainer(tmp_path, **told):
    return trl.DPOTrainer(
        tiny.model(seed=1), tiny.model(seed=2), trl.DPOConfig(**settings(tmp_path), beta=0.3, **told),
        train_dataset=datasets.Dataset.from_list(PAIRS), processing_class=tiny.tokenizer(),
    )  # fmt: skip


def theirs(trainer):
    return trainer._compute_loss(trainer.model, their_batch(trainer), False)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SAME)
def test_losses_on_pairs_with_a_reference(tmp_path, name, layout):
    objective, told = SAME[name]
    trainer = dpo_trainer(tmp_path, **{"loss_type": [name], **told})
    models = policy_and_reference(layout)
    found = ours(objective, models, grown(TEXTS, 2))
    assert abs(found.item() - math.log(2)) > 0.03
    assert_agreement(models.policy, found, trainer.model, theirs(trainer))


def test_sums_over_answers_are_the_letter_of_ipo_and_not_what_trl_takes(tmp_path):
    """TRL's IPO is that of means alone, which its authors confirmed."""
    found = ours(IPO(beta=0.3, reduction="sum"), policy_and_reference(), grown(TEXTS, 2))
    assert found.item() != pytest.approx(theirs(dpo_trainer(tmp_path, loss_type=["ipo"])).item(), rel=0.1)


def test_label_smoothing_does_something_here(tmp_path):
    """TRL takes the option with `sigmoid` and leaves it out without a word; here it is cDPO, between both losses."""
    smoothed, plain = (
        ours(DPO(beta=0.3, label_smoothing=e), policy_and_reference(), grown(TEXTS, 2)) for e in (0.2, 0)
    )
    silent = theirs(dpo_trainer(tmp_path, loss_type=["sigmoid"], label_smoothing=0.2))
    assert silent.item() == pytest.approx(plain.item(), rel=1e-4)
    assert abs(smoothed.item() - plain.item()) > 0.03


@pytest.mark.parametrize("layout", LAYOUTS)
def test_first_sft_loss(tmp_path, layout):
    rows = [{"prompt": prompt, "completion": good} for prompt, good, _ in TEXTS]
    model = tiny.model(seed=1)
    trainer = trl.SFTTrainer(
        model, trl.SFTConfig(**settings(tmp_path)),
        train_dataset=datasets.Dataset.from_list(rows), processing_class=tiny.tokenizer(),
    )  # fmt: skip
    policy = Policy(tiny.model(seed=1), tiny.tokenizer(), layout=layout)
    found = ours(SFT(), Models(policy), grown(TEXTS, 1))
    assert_agreement(policy, found, model, trainer.compute_loss(model, their_batch(trainer)))


def test_logps_agree_in_total_with_the_trainers_own(tmp_path):
    """What DPO subtracts: sums over an answer, the chosen ones first."""
    reference, trainer = tiny.model(seed=2), dpo_trainer(tmp_path)
    batch = their_batch(trainer)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    with torch.no_grad():
        wanted = trainer.ref_model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, fused_lm_head=True
        ).log_probs.sum(1)
        found = Policy(reference, tiny.tokenizer()).answer_logps(Batch(grown(TEXTS, 2)))
    assert torch.allclose(found, wanted, atol=1e-4)
