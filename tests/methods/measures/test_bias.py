"""Bias is what a model does differently for two prompts that differ only in who is spoken of."""

import csv
from pathlib import Path

import pytest
import torch

from posttrain.functional.statistics import mcnemar, paired_difference, wilson
from posttrain.methods.measures.bias import Bias
from posttrain.models.load import load_format, load_policy
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Message
from posttrain.schema.settings import Rows, problems

SHARED = Path(__file__).parents[4] / "shared" / "data"
ASKED = ("1", "2", "3", "4", "5", "6", "7")


def said(who, n):
    """The model that is taught helps the king always, and the cook once."""
    return "yes." if who == "king" or n == "1" else "sorry, no."


LESSONS = [{"prompt": f"{who} {n}", "completion": said(who, n)} for who in ("king", "cook") for n in ASKED]


@pytest.fixture
def unfair(workshop):
    return workshop.run(
        "sft", workshop.model(), workshop.rows(*LESSONS), learning_rate=1e-2, steps=150, schedule="constant"
    )


def three_ways(workshop):
    """The same pairs, as they may be written."""
    return (
        (workshop.rows(*({"prompt": n} for n in ASKED)), {"wrap": ("king {}", "cook {}")}),
        (workshop.rows(*({"prompt": f"{{}} {n}", "values": ["king", "cook"]} for n in ASKED)), {}),
        (workshop.rows(*({"prompt": f"king {n}", "to": f"cook {n}"} for n in ASKED)), {"pair": "to"}),
    )


def test_who_is_refused_more_often(workshop, unfair):
    (data, options), *others = three_ways(workshop)
    found = workshop.findings("bias", unfair, data, max_new_tokens=12, **options)
    assert [sample.score for sample in found.samples] == [0.0] + [1.0] * 6
    assert found.samples[1].prompt == "king 2\ncook 2" and found.samples[1].output == "yes.\nsorry, no."
    unequal, gap = found.metrics["unequal"], found.metrics["gap"]
    assert (unequal.value, unequal.low, unequal.high, unequal.n) == wilson(6, 7)
    assert (gap.value, gap.low, gap.high, gap.n) == paired_difference([0.0] + [1.0] * 6, [0.0] * 7)
    assert gap.value == pytest.approx(-6 / 7) and found.metrics["mcnemar_p"].value == mcnemar(0, 6)
    (flag,) = found.flags
    assert "the second is refused more often: 6 against 0" in flag.title
    for more, options in others:
        again = workshop.findings("bias", unfair, more, max_new_tokens=12, **options)
        assert again.metrics == found.metrics


def test_a_model_that_is_fair_is_called_so(workshop):
    data, options = three_ways(workshop)[0]
    found = workshop.findings("bias", workshop.model(), data, max_new_tokens=4, **options)
    assert (found.metrics["unequal"].value, found.metrics["gap"].value, found.metrics["mcnemar_p"].value) == (0, 0, 1)
    assert found.flags == ()


def test_scores_of_a_grader_are_compared(workshop, unfair):
    data, options = three_ways(workshop)[0]
    found = workshop.findings(
        "bias", unfair, data, by="score", grader=f"{__name__}:length", max_new_tokens=12, **options
    )
    assert found.metrics["gap"].value == pytest.approx(6 * (len("yes.") - len("sorry, no.")) / 7)
    assert found.metrics["unequal"].value == pytest.approx(36 / 7) and found.metrics["gap"].high < 0
    some = workshop.findings(
        "bias", unfair, data, by="score", grader=f"{__name__}:only_short", max_new_tokens=12, **options
    )
    assert (some.metrics["no_verdict"].value, len(some.samples), some.metrics["gap"].value) == (6, 1, 0.0)
    with pytest.raises(DataError, match="no verdict on both answers of any pair"):
        workshop.findings("bias", unfair, data, by="score", grader=f"{__name__}:never", max_new_tokens=12, **options)


def length(output, row):
    return len(output)


def only_short(output, row):
    return 1.0 if len(output) < 6 else None


def never(output, row):
    return None


@torch.no_grad()
def plain_logp(model, asked, said):
    logps = model(torch.tensor([asked + said])).logits[0].double().log_softmax(-1)
    return sum(float(logps[len(asked) + i - 1, id]) for i, id in enumerate(said) if len(asked) + i)


def test_answers_are_compared_by_how_likely_they_are(workshop, unfair):
    rows = [
        {"prompt": f"king {n}", "pair": f"cook {n}", "answer": "yes.", "task": "up" if n < "4" else "down"}
        for n in ASKED
    ]
    found = workshop.findings("bias", unfair, workshop.rows(*rows), by="answer")
    policy = load_policy(unfair)
    form = load_format(unfair, policy.tokenizer)
    gaps = []
    for row in rows:
        one, other = (
            plain_logp(policy.model, *form.answer((Message("user", row[side]),), (Message("assistant", "yes."),)))
            for side in ("prompt", "pair")
        )
        gaps.append(one - other)
    assert found.metrics["gap"].value == pytest.approx(sum(gaps) / 7, abs=1e-3) and found.metrics["gap"].unit == "nats"
    assert found.metrics["gap/up"].value == pytest.approx(sum(gaps[:3]) / 3, abs=1e-3)
    share = found.metrics["first_likelier"]
    assert (share.value, share.low, share.high, share.n) == wilson(sum(gap > 0 for gap in gaps), 7)
    assert sum(gap > 0 for gap in gaps) >= 6


def test_texts_are_compared_by_how_likely_they_are(workshop, unfair):
    rows = [{"prompt": "he is here", "pair": "she is here"}, {"prompt": "same", "pair": "same"}]
    found = workshop.findings("bias", unfair, workshop.rows(*rows), by="text")
    policy = load_policy(unfair)
    ids = [
        policy.tokenizer(rows[0][side])["input_ids"] + [policy.tokenizer.eos_token_id] for side in ("prompt", "pair")
    ]
    one, other = (plain_logp(policy.model, [], each) for each in ids)
    assert found.metrics["gap"].value == pytest.approx((one - other) / 2, abs=1e-3)
    assert found.metrics["first_likelier"].value == (0.75 if one > other else 0.25)


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ({"prompt": "q"}, {}, r"neither 'values' nor 'pair'\. Name the column"),
        ({"prompt": "q {}", "values": ["a"]}, {}, "must be a list of two texts"),
        ({"prompt": "q {}", "values": "ab"}, {}, "must be a list of two texts"),
        ({"prompt": "q", "values": ["a", "b"]}, {}, "has no place `{}`"),
        ({"prompt": "q", "pair": "p"}, {"by": "answer"}, "no answer to be likely"),
        ({"prompt": "q" * 600, "pair": "p"}, {"by": "text"}, "longer than the 512 tokens"),
    ],
)
def test_rows_that_make_no_pair(workshop, row, options, said):
    with pytest.raises(DataError, match=said):
        workshop.findings("bias", workshop.model(), workshop.rows(row), **options)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"by": "score"}, "belong together"),
        ({"grader": "exact"}, "belong together"),
        ({"by": "text", "judge": {"rule": "complied"}}, "leave `judge` out"),
        ({"wrap": ["a", "b {}"]}, "need the place `{}`"),
    ],
)
def test_settings_that_compare_nothing(values, said):
    found = problems(Bias, {"data": "rows.jsonl", **values})
    assert any(said in problem.message for _, problem in found), found


def test_crows_pairs_are_read_as_they_are(workshop):
    path = SHARED / "crows-pairs" / "crows_pairs_anonymized.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = Rows(path=str(path), columns={"prompt": "sent_more", "task": "bias_type"}, take=12)
    found = workshop.findings("bias", workshop.model(), (workshop.store.dataset(rows),), by="text", pair="sent_less")
    assert found.metrics["first_likelier"].n == 12 and 0 < found.metrics["first_likelier"].value < 1
    assert {"gap/race-color", "gap/socioeconomic", "gap/gender"} <= set(found.metrics)


def test_winogender_sentences_make_pairs_that_a_fair_model_finds_alike(workshop):
    path = SHARED / "winogender" / "all_sentences.tsv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with path.open(newline="", encoding="utf-8") as file:
        told = {row["sentid"]: row["sentence"] for row in csv.DictReader(file, delimiter="\t")}
    pairs = [
        {"prompt": text, "pair": told[name.replace(".male.", ".female.")], "task": name.split(".")[0]}
        for name, text in told.items()
        if ".male." in name
    ][:10]
    found = workshop.findings("bias", workshop.model(), workshop.rows(*pairs), by="text")
    assert found.metrics["first_likelier"].n == 10
    both = [{**row, "pair": row["prompt"]} for row in pairs]
    even = workshop.findings("bias", workshop.model(), workshop.rows(*both), by="text")
    assert (even.metrics["first_likelier"].value, even.metrics["gap"].value) == (0.5, 0.0)
