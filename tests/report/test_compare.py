"""What counts as a change, row against row where that is possible."""

from math import nan

import pytest

from posttrain.functional.statistics import paired_difference, wilson
from posttrain.report.compare import compare
from posttrain.schema.findings import Findings, Graded, Metric
from posttrain.schema.record import ModelRecord


def model(name: str, *findings: Findings) -> ModelRecord:
    return ModelRecord(name, "d", "p", "dense", 1, {found.name: found for found in findings})


def scored(scores: list[float], better: str = "higher", unit: str = "share", ids: str = "r") -> Findings:
    rows = tuple(Graded(f"{ids}{i}", score) for i, score in enumerate(scores))
    metric = Metric(sum(scores) / len(scores), len(scores), unit=unit, better=better)
    return Findings("m", "benchmark", {"mean": metric}, rows)


def only(before: Findings, after: Findings):
    return compare(model("a", before), model("b", after)).changes[0]


def number(value: float, low: float | None = None, high: float | None = None, better: str = "higher") -> Findings:
    return Findings("m", "size", {"x": Metric(value, 1, low, high, "bytes", better)})


def test_rows_are_compared_with_themselves():
    before, after = [0.0] * 20 + [1.0] * 20, [1.0] * 12 + [0.0] * 8 + [1.0] * 20
    change = only(scored(before), scored(after))
    expected = paired_difference(before, after)
    assert (change.difference, change.low, change.high) == pytest.approx(expected[:3])
    assert change.paired and change.verdict == "better"


def test_the_order_of_the_rows_does_not_matter():
    before, after = scored([0, 0, 0, 1, 1, 1, 0, 1]), scored([1, 0, 0, 1, 1, 0, 0, 1])
    turned = Findings("m", "benchmark", after.metrics, after.samples[::-1])
    assert only(before, turned) == only(before, after)


def test_flips_name_their_rows_and_are_tested_exactly():
    found = compare(model("a", scored([0] * 6 + [1, 1])), model("b", scored([1] * 6 + [0, 1]))).contrasts[0]
    assert [a.id for a, _ in found.gained] == ["r0", "r1", "r2", "r3", "r4", "r5"]
    assert [b.id for _, b in found.lost] == ["r6"]
    assert found.p == 2 * (1 + 7) / 2**7
    assert found.wins == wilson(6 + 1 / 2, 8)


def test_a_change_needs_the_exact_test_too():
    """Five rows turn right, none wrong: the interval leaves out zero, but the exact p is 6 %."""
    change = only(scored([0.0] * 5 + [1.0] * 95), scored([1.0] * 100))
    assert change.low is not None and change.low > 0
    assert change.verdict == "no clear change"


def test_five_rows_that_agree_prove_nothing():
    assert only(scored([0.1] * 5), scored([0.2] * 5)).verdict == "no clear change"
    assert only(scored([0.1] * 6), scored([0.2] * 6)).verdict == "better"


@pytest.mark.parametrize("better, verdict", [("higher", "worse"), ("lower", "better"), ("none", "changed")])
def test_the_metric_says_which_way_is_better(better: str, verdict: str):
    assert only(scored([2.0, 3.0] * 10, better, "nats"), scored([1.0, 2.5] * 10, better, "nats")).verdict == verdict


def test_wins_follow_the_metric_and_are_left_out_where_no_way_is_better():
    before, after = [2.0, 3.0, 4.0], [1.0, 3.0, 5.0]
    for better, share in (("lower", 1 + 1 / 2), ("higher", 1 + 1 / 2)):
        found = compare(model("a", scored(before, better)), model("b", scored(after, better))).contrasts[0]
        assert found.wins == wilson(share, 3) and found.p is None
    lower = compare(model("a", scored(before, "lower")), model("b", scored([1.0, 2.0, 3.0], "lower")))
    assert lower.contrasts[0].wins == wilson(3, 3)
    none = compare(model("a", scored(before, "none")), model("b", scored(after, "none")))
    assert none.contrasts[0].wins is None


def test_other_rows_are_not_paired():
    """Without common rows both intervals are joined: ±0.03 and ±0.04 become ±0.05."""
    first, second = (scored([0.5] * 10, ids=ids) for ids in ("x", "y"))
    change = compare(
        model("a", Findings("m", "b", {"mean": Metric(0.5, 10, 0.47, 0.53)}, first.samples)),
        model("b", Findings("m", "b", {"mean": Metric(0.6, 10, 0.56, 0.64)}, second.samples)),
    ).changes[0]
    assert not change.paired
    assert (change.low, change.high) == pytest.approx((0.05, 0.15))
    assert change.verdict == "better"


def test_rows_do_not_speak_for_a_metric_that_is_not_their_mean():
    rows = scored([0.0, 1.0] * 10)
    before = Findings("m", "b", {"bits": Metric(2.0, 20, 1.9, 2.1, "ratio", "lower")}, rows.samples)
    after = Findings("m", "b", {"bits": Metric(1.95, 20, 1.85, 2.05, "ratio", "lower")}, rows.samples)
    change = only(before, after)
    assert not change.paired and change.verdict == "no clear change"


def test_rounding_is_no_change():
    """Sums in another order differ in the last digits, on every row the same way."""
    assert only(scored([0.3] * 50, unit="nats"), scored([0.3 + 1e-9] * 50, unit="nats")).verdict == "no clear change"


def test_a_low_score_may_be_the_right_one():
    """Six attacks that got through no longer do: the score falls from 1 to 0, and that is six rows gained."""
    found = compare(model("a", scored([1.0] * 6, "lower")), model("b", scored([0.0] * 6, "lower")))
    assert found.changes[0].verdict == "better"
    assert len(found.contrasts[0].gained) == 6 and not found.contrasts[0].lost
    assert found.contrasts[0].right == 0


def test_the_same_question_twice_is_two_rows():
    twice = Findings("m", "b", {"mean": Metric(0.5)}, (Graded("q", 0.0), Graded("q", 1.0)))
    assert len(compare(model("a", twice), model("b", twice)).contrasts[0].pairs) == 2


def test_numbers_without_interval_are_exact_but_a_thousandth_is_no_news():
    assert only(number(9_000_000, better="lower"), number(3_000_000, better="lower")).verdict == "better"
    assert only(number(9_000_000, better="lower"), number(9_000_500, better="lower")).verdict == "no clear change"
    assert only(number(5), number(5)).verdict == "no clear change"


def test_what_is_not_a_number_proves_nothing():
    assert only(number(1.0), number(nan)).verdict == "no clear change"
    broken = compare(model("a", scored([0.0, 1.0])), model("b", scored([nan, 1.0])))
    assert broken.contrasts == () and broken.changes[0].verdict == "no clear change"


def test_only_what_both_models_have_is_compared():
    assert compare(model("a", scored([1.0])), model("b")).changes == ()
    assert compare(model("a"), model("b")).contrasts == ()
    other = Findings("m", "b", {"another": Metric(1.0)})
    assert compare(model("a", scored([1.0])), model("b", other)).changes == ()


def test_which_way_is_up_is_said_by_what_both_models_have_for_their_mean():
    """The first model's drift happens to be the mean of its rewards, nothing; the second's is not."""

    def of(name: str, drift: float, rewards: list[float]) -> ModelRecord:
        rows = tuple(Graded(str(i), reward) for i, reward in enumerate(rewards))
        metrics = {"kl": Metric(drift, better="none"), "reward": Metric(sum(rewards) / len(rewards))}
        return ModelRecord(name, "", "", "dense", 1, {"drift": Findings("drift", "drift", metrics, rows)})

    (contrast,) = compare(of("a", 0.0, [0.0] * 8), of("b", 3.0, [1.0] * 6 + [0.0] * 2)).contrasts
    assert contrast.wins is not None and contrast.wins.value == 7 / 8
