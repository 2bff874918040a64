"""Every objective trains every kind of adapter, with the model as it was for a reference."""

import math

import pytest

from posttrain.schema.errors import ModelError
from tests.kinds import KINDS, VIRTUAL, wide

PAIRS = [{"prompt": f"{i}", "chosen": "yes", "rejected": "no"} for i in range(4)]
ANSWERS = [{"prompt": f"{i}", "completion": "yes"} for i in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_base_is_the_reference_of_every_kind(workshop, kind: str):
    """The policy begins as its reference where the adapter begins as nothing: DPO's first loss is log 2."""
    data = workshop.rows(*PAIRS)
    made = workshop.run("dpo", wide(workshop), data, adapter=KINDS[kind], learning_rate=1e-9, steps=1)
    if kind in VIRTUAL:
        assert made.facts["final"]["loss"] != pytest.approx(math.log(2), abs=1e-4)
    else:
        assert made.facts["final"]["loss"] == pytest.approx(math.log(2), rel=1e-4)
    again = workshop.run("dpo", made, data, learning_rate=1e-9, steps=1)
    assert again.facts["final"]["loss"] == pytest.approx(math.log(2), rel=1e-4), (
        "the reference is the adapter as it was"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("objective", "rows"), [("sft", ANSWERS), ("dpo", PAIRS)])
def test_every_objective_learns_with_every_kind(workshop, kind, objective, rows):
    options = {"adapter": KINDS[kind], "learning_rate": 3e-2, "batch_size": 4}
    first, last = (
        workshop.run(objective, wide(workshop), workshop.rows(*rows), steps=steps, **options).facts["final"]["loss"]
        for steps in (1, 25)
    )
    assert last < 0.7 * first


@pytest.mark.slow
@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_learn_with_layers_computed_again(workshop, kind):
    """PEFT refuses prefix-tuning with checkpoints of transformers' own, or dies in them."""
    options = {"adapter": KINDS[kind], "learning_rate": 3e-2, "steps": 4}
    losses = [
        workshop.run("sft", wide(workshop), workshop.rows(*ANSWERS), gradient_checkpointing=again, **options).facts[
            "final"
        ]["loss"]
        for again in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_that_leave_no_room_are_refused(workshop, kind):
    with pytest.raises(ModelError, match=r"The adapter's 512 virtual tokens leave no room for a text among the \d+"):
        workshop.run("sft", wide(workshop), workshop.rows(*ANSWERS), adapter={kind: {"tokens": 512}}, steps=1)
