"""posttrain and TRL give the same loss and the same gradients on the same weights and rows."""

import math

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.functional.layout import Branch, Tree
from posttrain.methods.objectives.dpo import DPO
from posttrain.methods.objectives.sft import SFT
from posttrain.models.policy import Models, Policy
from tests import tiny

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'posttrain[bench]'")
datasets = pytest.importorskip("datasets")

WATCHED = ("model.embed_tokens.weight", "model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.up_proj.weight")
TEXTS = [
    ("2 + 3 = ", "5", "7, I think"),
    ("Name a colour that one sees in a clear sky: ", "blue, on most days", "no"),
    ("Repeat after me: ja. ", "ja", "nein und nochmals nein"),
]


def grown(texts, n_answers):
    """Trees as TRL tokenises the texts: each answer ends with EOS."""
    tokenizer = tiny.tokenizer()

    def branch(answer: str) -> Branch:
        ids = (*tokenizer(answer)["input_ids"], tokenizer.eos_token_id)
        return Branch(ids, (True,) * len(ids))

    return [
        Tree(tuple(tokenizer(prompt)["input_ids"]), tuple(map(branch, answers[:n_answers])))
        for prompt, *answers in texts
    ]


def settings(tmp_path):
    return {
        "output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": [],
        "per_device_train_batch_size": len(TEXTS), "max_steps": 1, "max_length": 512,
    }  # fmt: skip


def their_batch(trainer):
    return trainer.data_collator([trainer.train_dataset[i] for i in range(len(TEXTS))])


def ours(objective, models, trees):
    batch = Batch(tuple(trees))
    loss, _ = objective.loss(models, objective.prepare(batch, models), batch.counts())
    return loss


def gradients(model):
    return [dict(model.named_parameters())[name].grad.clone() for name in WATCHED]


def agree(policy, our_loss, their_model, their_loss):
    assert our_loss.item() == pytest.approx(their_loss.item(), abs=1e-4)
    our_loss.backward()
    their_loss.backward()
    for a, b in zip(gradients(policy.model), gradients(their_model), strict=True):
        assert b.norm() > 1e-4
        assert (a - b).norm() / b.norm() < 1e-4


@pytest.mark.parametrize("layout", ["packed", "padded", "logits"])
def test_first_dpo_loss(tmp_path, layout):
    """The reference is another model than the policy, so the loss is not simply log 2."""
    rows = [{"prompt": prompt, "chosen": good, "rejected": bad} for prompt, good, bad in TEXTS]
    model = tiny.model(seed=1)
    trainer = trl.DPOTrainer(
        model, tiny.model(seed=2), trl.DPOConfig(**settings(tmp_path), beta=0.7),
        train_dataset=datasets.Dataset.from_list(rows), processing_class=tiny.tokenizer(),
    )  # fmt: skip
    theirs = trainer._compute_loss(model, their_batch(trainer), False)
    policy, reference = (Policy(tiny.model(seed=seed), tiny.tokenizer(), layout=layout) for seed in (1, 2))
    found = ours(DPO(beta=0.7), Models(policy, reference), grown(TEXTS, 2))
    assert abs(found.item() - math.log(2)) > 0.03
    agree(policy, found, model, theirs)


@pytest.mark.parametrize("layout", ["packed", "padded", "logits"])
def test_first_sft_loss(tmp_path, layout):
    rows = [{"prompt": prompt, "completion": good} for prompt, good, _ in TEXTS]
    model = tiny.model(seed=1)
    trainer = trl.SFTTrainer(
        model, trl.SFTConfig(**settings(tmp_path)),
        train_dataset=datasets.Dataset.from_list(rows), processing_class=tiny.tokenizer(),
    )  # fmt: skip
    theirs = trainer.compute_loss(model, their_batch(trainer))
    policy = Policy(tiny.model(seed=1), tiny.tokenizer(), layout=layout)
    agree(policy, ours(SFT(), Models(policy), grown(TEXTS, 1)), model, theirs)


def test_logps_agree_in_total_with_the_trainers_own(tmp_path):
    """What DPO subtracts: sums over an answer, the chosen ones first."""
    rows = [{"prompt": prompt, "chosen": good, "rejected": bad} for prompt, good, bad in TEXTS]
    reference = tiny.model(seed=2)
    trainer = trl.DPOTrainer(
        tiny.model(seed=1), reference, trl.DPOConfig(**settings(tmp_path)),
        train_dataset=datasets.Dataset.from_list(rows), processing_class=tiny.tokenizer(),
    )  # fmt: skip
    batch = their_batch(trainer)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    with torch.no_grad():
        theirs = reference(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, fused_lm_head=True
        ).log_probs.sum(1)
        found = Policy(tiny.model(seed=2), tiny.tokenizer()).answer_logps(Batch(tuple(grown(TEXTS, 2))))
    assert torch.allclose(found, theirs, atol=1e-4)
