"""What tests beside TRL share: the same rows for both sides, on frozen weights, and what it is to agree."""

from typing import Any

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.engine.method import Objective
from posttrain.functional.layout import Branch, Tree
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
PAIRS = [{"prompt": prompt, "chosen": good, "rejected": bad} for prompt, good, bad in TEXTS]
CLOSE = 1e-5  # relative, in fp32; of a loss, which subtracts sums of up to 160 nats, beside 1e-5 nats


def grown(texts: Any, n_answers: int) -> tuple[Tree, ...]:
    """Trees as TRL tokenises the texts: each answer ends with EOS."""
    tokenizer = tiny.tokenizer()

    def branch(answer: str) -> Branch:
        ids = (*tokenizer(answer)["input_ids"], tokenizer.eos_token_id)
        return Branch(ids, (True,) * len(ids))

    return tuple(
        Tree(tuple(tokenizer(prompt)["input_ids"]), tuple(map(branch, answers[:n_answers])))
        for prompt, *answers in texts
    )


def settings(tmp_path: Any) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": [],
        "per_device_train_batch_size": len(TEXTS), "max_steps": 1, "max_length": 512,
    }  # fmt: skip


def their_batch(trainer: Any) -> Any:
    return trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])


def policy_and_reference(layout: str = "packed") -> Models:
    """The reference is another model than the policy, so that no ratio is 1."""
    return Models(*(Policy(tiny.model(seed=seed), tiny.tokenizer(), layout=layout) for seed in (1, 2)))


def ours(objective: Objective, models: Models, trees: tuple[Tree, ...]) -> torch.Tensor:
    batch = Batch(trees)
    with torch.no_grad():
        batch = objective.prepare(batch, models)
    return objective.loss(models, batch, batch.counts())[0]


def gradients(model: Any) -> list[torch.Tensor]:
    return [dict(model.named_parameters())[name].grad.clone() for name in WATCHED]


def assert_agreement(
    policy: Policy, our_loss: torch.Tensor, their_model: Any, their_loss: torch.Tensor, close: float = CLOSE
) -> None:
    """In the loss and in its gradient."""
    assert abs(our_loss.item() - their_loss.item()) < close * (1 + abs(their_loss.item()))
    our_loss.backward()
    their_loss.backward()
    for a, b in zip(gradients(policy.model), gradients(their_model), strict=True):
        assert b.norm() > 1e-4
        assert (a - b).norm() / b.norm() < close
