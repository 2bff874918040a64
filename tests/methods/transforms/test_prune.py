"""Pruning on tiny models: as many zeros as asked for, closer the more is looked at, and wrong shares refused."""

import json

import pytest
from pydantic import ValidationError

from posttrain.models.load import load_weights
from posttrain.models.matrices import matrices_in
from posttrain.schema.errors import UsageError
from tests.methods.transforms.test_gptq import TEXTS

FEW = {"sequences": 8, "length": 32}


@pytest.mark.parametrize("by", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("of", [None, 4])
def test_the_share_is_zero_and_all_else_stays(workshop, by, of):
    made = workshop.run("prune", workshop.model(), workshop.rows(*TEXTS), by=by, of=of, **FEW)
    before, after = (load_weights(each) for each in (workshop.model(), made))
    matrices = matrices_in(after)
    assert made.form == "dense"
    assert made.facts["zeros"] == pytest.approx(0.5, abs=0.01)
    for matrix in matrices.values():
        zeros = matrix.weight.eq(0)
        assert zeros.float().mean() == pytest.approx(0.5, abs=0.02)
        assert of is None or zeros.reshape(len(zeros), -1, of).sum(-1).eq(of / 2).all()
    for name, x in before.state_dict().items():
        if name.removesuffix(".weight") not in matrices:
            assert after.state_dict()[name].equal(x), name


@pytest.mark.slow
def test_each_way_is_closer_to_the_model(workshop):
    rows, model = workshop.rows(*TEXTS), workshop.model()
    kl = {}
    for by in ("magnitude", "wanda", "sparsegpt"):
        made = workshop.run("prune", model, rows, by=by, **FEW)
        found = workshop.run("fidelity", made, rows, inputs={"against": model}, against="base")
        kl[by] = json.loads((found.path / "findings.json").read_text())["metrics"]["kl"]["value"]
    assert kl["sparsegpt"] < 0.9 * kl["wanda"]
    assert kl["wanda"] < kl["magnitude"]


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"sparsity": 0.3, "of": 4}, r"`sparsity: 0.25`, or leave `of` out"),
        ({"sparsity": 0.9, "of": 2}, r"`sparsity: 0.5`, or leave `of` out"),
        ({"sparsity": 1.0}, "less than 1"),
        (
            {"by": "wanda", "correct": 0.5},
            r"`correct` does nothing to `by: wanda`: write `by: sparsegpt`, or leave it out",
        ),
    ],
)
def test_what_cannot_be_is_refused(workshop, options, cure):
    with pytest.raises(ValidationError, match=cure):
        workshop.stage("prune", workshop.rows(*TEXTS), **options)


def test_neighbours_that_do_not_divide_a_row_are_told(workshop):
    with pytest.raises(UsageError, match=r"The 32 columns of model.layers.0.self_attn.q_proj are no whole number of 5"):
        workshop.run("prune", workshop.model(), workshop.rows(*TEXTS), sparsity=0.2, of=5, **FEW)
