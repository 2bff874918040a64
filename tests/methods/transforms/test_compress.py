"""Budgets on tiny models: held, used, and refused where nothing is within."""

import json

import pytest
from pydantic import ValidationError

from posttrain.engine.calibrating import calibration_and_aside
from posttrain.engine.job import Job
from posttrain.engine.sensitivity import Aside
from posttrain.models.load import load_tokenizer, load_weights
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError, UsageError
from tests import gguf_models
from tests.methods.transforms.test_gptq import TEXTS

FEW = {"sequences": 8, "aside": 4, "length": 32, "group": 16, "tries": 4}


def few(*into: str) -> dict:
    """Little to do, and no option that says nothing of these formats."""
    idle = {"group"} if into == ("gguf",) else set()
    return {name: value for name, value in FEW.items() if name not in idle} | {"into": into}


def blocky(workshop) -> Model:
    """A model whose rows are whole blocks, with a tokenizer that GGUF files can hold."""
    folder = workshop.folder / "blocky"
    if not folder.exists():
        gguf_models.save(folder, gguf_models.model("llama", vocab_size=720), gguf_models.byte_level("qwen2"))
    return workshop.store.model(str(folder))


def measured(workshop, model, made, rows) -> float:
    """What a compressed model that was loaded again loses on the rows that `compress` put aside."""
    job = Job(workshop.folder / "again", workshop.folder / f"again-{made.digest}")
    stage = workshop.stage("compress", rows, within={"kl": 1}, **FEW)
    _, trees = calibration_and_aside(stage, model, rows, job, FEW["aside"])
    return Aside.of(load_weights(model), load_tokenizer(model), trees).kl(load_weights(made))


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


@pytest.mark.slow
@pytest.mark.parametrize("into", ["compressed-tensors", "gguf"])
def test_what_is_promised_is_what_the_file_holds(workshop, into):
    model, rows = blocky(workshop), workshop.rows(*TEXTS)
    made = workshop.run("compress", model, rows, within={"kl": 0.02}, **few(into))
    assert made.form == into
    assert measured(workshop, model, made, rows) == pytest.approx(made.facts["kl"], rel=1e-3)
    assert made.facts["measured"]["tokens"] > 0
    counts = made.facts["matrices_of_types" if into == "gguf" else "matrices_of_bits"]
    assert sum(counts.values()) == made.facts["matrices"] == len(made.facts["rounded"])


@pytest.mark.slow
def test_the_smaller_of_two_formats_is_written(workshop):
    model, rows = blocky(workshop), workshop.rows(*TEXTS)
    alone = [
        workshop.run("compress", model, rows, within={"kl": 0.02}, **few(into))
        for into in ("compressed-tensors", "gguf")
    ]
    shares = {each.form: share_of(each) for each in alone}
    both = workshop.run("compress", model, rows, within={"kl": 0.02}, **few(*shares))
    assert both.form == min(shares, key=shares.__getitem__)
    assert share_of(both) == pytest.approx(min(shares.values()))
    assert {each["form"] for each in both.facts["tried"]} == set(shares)


def share_of(made: Model) -> float:
    """The share of the bytes of the mixture that was written."""
    return min(each["share_of_bytes"] for each in made.facts["tried"] if each["kl"] == made.facts["kl"])


@pytest.mark.slow
def test_the_answers_alone_of_conversations_count(workshop):
    """The same answers to longer questions: as many tokens are looked at for each row."""
    for words in (2, 9):
        rows = workshop.rows(*({"prompt": "ab " * words + str(n), "completion": "xyz"} for n in range(90)))
        made = workshop.run("compress", workshop.model(), rows, within={"bytes": 0.7}, **FEW)
        job = Job(workshop.folder, workshop.folder / str(words))
        stage = workshop.stage("compress", rows, within={"bytes": 0.7}, **FEW)
        _, trees = calibration_and_aside(stage, workshop.model(), rows, job, FEW["aside"])
        assert made.facts["measured"]["tokens"] == 4 * len(trees)  # three letters and the end of the turn


REFUSED = [{"prompt": f"harm {n}", "completion": "sorry, no."} for n in range(6)]
HELPED = [{"prompt": f"help {n}", "completion": "it is here."} for n in range(6)]


@pytest.mark.slow
def test_refusals_that_flip_stand_in_the_way(workshop):
    """Fewer flips need more bytes, and what was promised holds when the model written is asked."""
    lessons = workshop.rows(*REFUSED, *HELPED)
    model = workshop.run("sft", workshop.model(), lessons, learning_rate=1e-2, steps=60, schedule="constant")
    rows = workshop.rows(*REFUSED, *HELPED, *({"prompt": f"more {n}", "completion": "so it is."} for n in range(60)))
    asked = workshop.rows(*({"prompt": row["prompt"]} for row in (*REFUSED, *HELPED)))
    made = {}
    for most in (0, 0.5):
        within = {"kl": 9, "refusal_flips": most, "asked": "given", "max_new_tokens": 12}
        made[most] = workshop.run(
            "compress", model, rows, inputs={"within.asked": asked}, within=within, **FEW | {"tries": 6}
        )
    assert made[0].facts["refusal_flips"] == 0 and made[0].facts["measured"]["prompts"] == 12
    assert 0 < made[0.5].facts["refusal_flips"] <= 0.5
    assert share_of(made[0.5]) < share_of(made[0])
    before, after = (
        [each.score for each in workshop.findings("over_refusal", of, asked, max_new_tokens=12).samples]
        for of in (model, made[0])
    )
    assert sum(before) == 6 and before == after


@pytest.mark.slow
def test_bytes_and_quality_that_cannot_be_had_together_are_told(workshop):
    within = {"kl": 0.02, "bytes": 0.66}
    with pytest.raises(ModelError, match=r"No mixture of 66.0% of the bytes.*closest loses.*write `bytes: \d"):
        workshop.run("compress", workshop.model(), workshop.rows(*TEXTS), within=within, **FEW)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"within": {}}, "a budget limits what is lost, or bytes"),
        ({"within": {"bytes": 1.5}}, "less than 1"),
        ({"within": {"bytes": "x%"}}, "x"),
        ({"within": {"refusal_flips": "1%"}}, "needs prompts to ask: add `asked"),
        ({"within": {"kl": 1, "asked": "lab:howto/test"}}, "`asked` does nothing without a limit"),
        ({"within": {"kl": 1}, "types": ["q8_0", "q4_0"]}, "add `into: gguf`"),
        ({"within": {"kl": 1}, "into": "gguf", "bits": [4, 8]}, "`bits` says nothing of GGUF files"),
        ({"within": {"kl": 1}, "into": ["gguf", "gguf"]}, "names a format twice"),
    ],
)
def test_settings_that_make_no_sense_are_refused(workshop, options, message):
    with pytest.raises(ValidationError, match=message):
        workshop.stage("compress", workshop.rows(*TEXTS), **options)


def test_the_form_is_said_as_far_as_it_is_known(workshop):
    stage = workshop.stage("compress", workshop.rows(*TEXTS), within={"kl": 1}, into=["compressed-tensors", "gguf"])
    assert stage.makes_form("dense") == "compressed-tensors or gguf"
    assert workshop.stage("size").takes(stage.makes_form("dense"))
    assert not workshop.stage("gguf").takes(stage.makes_form("dense"))
