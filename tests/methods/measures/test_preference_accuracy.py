"""Preference accuracy compares log-probabilities of whole answers, or of their tokens."""

import pytest

from posttrain.schema.rows import Pair

PAIRS = [{"prompt": "say", "chosen": "a" * n, "rejected": "b" * (9 - n)} for n in range(1, 9)]


def test_swapping_answers_swaps_the_rate(workshop):
    swapped = [{"prompt": p["prompt"], "chosen": p["rejected"], "rejected": p["chosen"]} for p in PAIRS]
    one, other = (
        workshop.findings("preference_accuracy", workshop.model(), workshop.rows(*rows)) for rows in (PAIRS, swapped)
    )
    assert one.metrics["accuracy"].value + other.metrics["accuracy"].value == 1
    assert one.metrics["margin"].value == pytest.approx(-other.metrics["margin"].value, rel=1e-4)
    assert [s.score + o.score for s, o in zip(one.samples, other.samples, strict=True)] == [1.0] * 8


def test_whole_answers_favour_short_ones_and_tokens_do_not(workshop):
    found = {
        per: workshop.findings("preference_accuracy", workshop.model(), workshop.rows(*PAIRS), per=per)
        for per in ("answer", "token")
    }
    short_wins = [sample.score for sample in found["answer"].samples]
    assert short_wins[:3] == [1.0, 1.0, 1.0]
    assert short_wins[-3:] == [0.0, 0.0, 0.0]
    assert abs(found["token"].metrics["margin"].value) < abs(found["answer"].metrics["margin"].value) + 1


def test_it_reads_pairs(workshop):
    assert workshop.stage("preference_accuracy", [None]).reads is Pair
