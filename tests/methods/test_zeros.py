"""Zeros stay zero through any number of steps, and other weights learn as they would."""

import pytest
import torch

from posttrain.models.load import load_weights
from posttrain.models.matrices import matrices_in
from posttrain.models.zeros import hold_zeros
from posttrain.schema.errors import ModelError
from tests import tiny

ROWS = [{"prompt": f"say {n}", "completion": f"it is {n}"} for n in range(8)]


def pruned() -> torch.nn.Module:
    model = tiny.model()
    with torch.no_grad():
        for matrix in matrices_in(model).values():
            matrix.weight[:, ::2] = 0
    return model


def test_a_gradient_is_what_it_was_where_weights_are_not_zero():
    ids = torch.randint(6, tiny.VOCABULARY, (2, 9))
    gradients = []
    for hold in (False, True):
        model = pruned()
        if hold:
            assert hold_zeros(model) == sum(matrix.weight.numel() // 2 for matrix in matrices_in(model).values())
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    matrices = {f"{name}.weight" for name in matrices_in(pruned())}
    for name, plain in gradients[0].items():
        expected = plain * torch.tensor([0.0, 1.0]).repeat(plain.shape[1] // 2) if name in matrices else plain
        assert torch.equal(gradients[1][name], expected), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "options"),
    [({}, {}), ({}, {"weight_decay": 0.1}), ({"l2": 0.1}, {}), ({}, {"gradient_checkpointing": True})],
)
def test_a_pruned_model_stays_pruned_when_it_is_trained(workshop, more, options):
    folder = workshop.model().path
    pruned().save_pretrained(folder)
    model = workshop.store.model(str(folder))
    rows = workshop.rows(*ROWS)
    made = {
        keep: workshop.run("sft", model, rows, steps=4, learning_rate=0.05, keep={"zeros": keep, **more}, **options)
        for keep in (False, True)
    }
    zeros = {
        keep: sum(int(matrix.weight.eq(0).sum()) for matrix in matrices_in(load_weights(each)).values())
        for keep, each in made.items()
    }
    assert zeros[True] == sum(matrix.weight.numel() // 2 for matrix in matrices_in(pruned()).values())
    assert zeros[False] < 0.1 * zeros[True]


def test_a_model_without_zeros_is_told():
    with pytest.raises(ModelError, match=r"no weight that is trained is zero\. Prune first"):
        hold_zeros(tiny.model())


def test_beside_an_adapter_it_would_do_nothing(workshop):
    with pytest.raises(ModelError, match=r"no weight that is trained is zero\. Prune first, train all weights"):
        workshop.run("sft", workshop.model(), workshop.rows(*ROWS), steps=1, keep={"zeros": True}, adapter="lora")
