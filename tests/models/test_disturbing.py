"""Disturbed prompts: what is added stays within its ball and on prompts, and the loss rises."""

import pytest
import torch

from posttrain.data.batch import Batch
from posttrain.functional.layout import Tree
from posttrain.models.disturbing import Disturbance
from posttrain.models.policy import Policy
from posttrain.schema.errors import ModelError
from tests import tiny

RADIUS = 0.3


def policy(layout: str = "packed") -> Policy:
    return Policy(tiny.model(), tiny.tokenizer(), layout=layout)


def climbed(model: Policy, trees: tuple[Tree, ...], steps: int = 3) -> tuple[Disturbance, list[float]]:
    """A disturbance after some steps, and the loss before and after each."""
    batch, worst = Batch(trees), Disturbance(model, trees, RADIUS)

    def nll() -> torch.Tensor:
        return -model.logps(batch).sum()

    losses = [nll().item()]
    for _ in range(steps):
        worst.step(nll, 0.5)
        with worst.applied():
            losses.append(nll().item())
    return worst, losses


def test_the_loss_rises_with_every_step_and_is_as_before_without_it():
    model, trees = policy(), tiny.trees(4, 1)
    _, losses = climbed(model, trees)
    assert losses == sorted(losses) and losses[-1] > losses[0] + 0.05
    assert -model.logps(Batch(trees)).sum().item() == losses[0]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_prompts_alone_are_moved_and_none_farther_than_the_radius(layout: str):
    model, trees = policy(layout), tiny.trees(5, 1)
    worst, _ = climbed(model, trees)
    assert worst.added is not None
    moved = worst.added.norm(dim=-1)
    mean = model.model.get_input_embeddings().weight.norm(dim=-1).mean()
    assert moved.max() <= RADIUS * mean * (1 + 1e-5)
    assert (moved > 0).sum() <= sum(len(tree.prompt) for tree in trees)
    assert (moved > 0).sum() > 0.9 * sum(len(tree.prompt) for tree in trees)


def test_packed_and_padded_rows_are_disturbed_alike():
    trees = tiny.trees(5, 2)
    one = tiny.trees(5, 1)
    packed, padded = (climbed(policy(layout), one)[1] for layout in ("packed", "padded"))
    assert packed == pytest.approx(padded, rel=1e-4)
    assert climbed(policy(), trees)[1][-1] > 0  # branches that share a prompt share what is added to it


def test_an_encoder_decoder_is_refused():
    model = Policy(tiny.encoder_decoder(), tiny.encoder_tokenizer())
    with pytest.raises(ModelError, match="Take a decoder-only model"):
        Disturbance(model, (), RADIUS)
