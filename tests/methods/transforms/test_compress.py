"""Budgets on tiny models: held, used, and refused where nothing is within."""

import json

import pytest
from pydantic import ValidationError

from posttrain.schema.errors import ModelError, UsageError
from tests import gguf_models
from tests.methods.transforms.test_gptq import TEXTS

FEW = {"sequences": 8, "aside": 4, "length": 32, "group": 16, "tries": 4}


@pytest.mark.slow
def test_the_loss_is_within_and_less_is_larger(workshop):
    model, rows = workshop.model(), workshop.rows(*TEXTS)
    made = {kl: workshop.run("compress", model, rows, within={"kl": kl}, **FEW) for kl in (0.02, 0.5)}
    for kl, each in made.items():
        assert each.form == "compressed-tensors"
        assert 0 < each.facts["kl"] <= kl
        assert each.facts["kl"] in [tried["kl"] for tried in each.facts["tried"]]
    assert made[0.5].facts["bits_per_weight"] < made[0.02].facts["bits_per_weight"]


@pytest.mark.slow
def test_the_bytes_are_within_and_used(workshop):
    made = workshop.run("compress", workshop.model(), workshop.rows(*TEXTS), within={"bytes": "70%"}, **FEW)
    (tried,) = made.facts["tried"]
    assert 0.65 < tried["share_of_bytes"] <= 0.7
    assert len(made.facts["matrices_of_bits"]) > 1


def test_every_matrix_is_reported(workshop):
    model, rows = workshop.model(), workshop.rows(*TEXTS)
    made = workshop.run("compress", model, rows, within={"bytes": 0.7}, **FEW)
    report = json.loads((made.path / "compression.json").read_text())
    assert [each["name"] for each in report] == made.facts["rounded"]


@pytest.mark.parametrize(
    ("within", "message"),
    [
        ({"kl": 1e-9}, r"loses as little as 1e-09.*closest loses.*larger `kl`"),
        ({"bytes": 0.1}, r"embeddings.*`within: \{bytes:"),
    ],
)
def test_a_budget_that_nothing_holds_is_told(workshop, within, message):
    with pytest.raises(ModelError, match=message):
        workshop.run("compress", workshop.model(), workshop.rows(*TEXTS), within=within, **FEW)


def test_a_head_that_is_more_than_a_matrix_is_told(workshop):
    weights = gguf_models.model("gemma2", vocab_size=720, final_logit_softcapping=0.1)
    folder = gguf_models.save(workshop.folder / "bounded", weights, gguf_models.byte_level("qwen2"))
    with pytest.raises(
        ModelError, match=r"The head of Gemma2ForCausalLM is more than a matrix.*`gptq`, with `overrides`"
    ):
        model, rows = workshop.store.model(str(folder)), workshop.rows(*TEXTS)
        workshop.run("compress", model, rows, within={"kl": 1}, **FEW)


def test_groups_that_do_not_divide_are_told(workshop):
    with pytest.raises(UsageError, match="Groups of 20 do not divide"):
        workshop.run("compress", workshop.model(), workshop.rows(*TEXTS), within={"kl": 1}, **FEW | {"group": 20})


@pytest.mark.parametrize("within", [{}, {"kl": 0.1, "bytes": 0.5}, {"bytes": 1.5}, {"bytes": "x%"}])
def test_a_budget_is_one_number(workshop, within):
    with pytest.raises(ValidationError):
        workshop.stage("compress", workshop.rows(*TEXTS), within=within)
