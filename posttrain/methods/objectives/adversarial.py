"""Adversarial training: learn the right answer under the prompt's worst disturbance, in the space of embeddings.

Zhu et al. 2020 (FreeLB, arXiv 1909.11764); for the safety of language models Xhonneux et al. 2024 (arXiv 2405.15589) and
Casper et al. 2024 (arXiv 2403.05030): attacks move a prompt about, and an answer that holds in a ball around it holds for many
of them.

    L = (1 - w) nll(y | x) + w max_{|d_t| <= r} nll(y | x + d)            nll: mean over all N answer tokens

d_t is added to the embedding of the prompt's token t, r = `radius` mean lengths of an embedding. The maximum is sought by
`ascents` steps of projected gradient ascent from d = 0, each token's step as long as the others'. Rows are conversations: the
attacks that were found with the answers they should have got (`curate`), their harmless twins, and whatever is to be kept.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import Objective
from posttrain.models.disturbing import Disturbance
from posttrain.models.policy import Models
from posttrain.schema.rows import Conversation, Row


class Adversarial(Objective):
    """Learn the assistant's turns of conversations, also where the prompt is disturbed as badly as possible."""

    reads: ClassVar[type[Row]] = Conversation

    radius: float = Field(0.05, gt=0)
    """How far each token of a prompt may be moved, in mean lengths of an embedding; farther resists more and learns less."""
    ascents: int = Field(2, ge=1)
    """Steps in which the worst disturbance is sought; each costs as much as a step of `sft`."""
    weight: float = Field(0.5, gt=0, le=1)
    """How much the disturbed prompts count, beside the undisturbed ones."""

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        policy = models.policy

        def nll() -> Tensor:
            return -policy.logps(micro).sum()

        if not torch.is_grad_enabled():  # a held-out loss: nobody attacks
            return nll() / total.tokens, {}
        worst = Disturbance(policy, micro.trees, self.radius)
        for _ in range(self.ascents):
            worst.step(nll, 1.5 / self.ascents)
        with worst.applied():
            disturbed = nll() / total.tokens
        metrics: dict[str, Any] = {"disturbed": disturbed.detach()}
        if self.weight == 1:
            return disturbed, metrics
        clean = nll() / total.tokens
        return (1 - self.weight) * clean + self.weight * disturbed, {**metrics, "undisturbed": clean.detach()}
