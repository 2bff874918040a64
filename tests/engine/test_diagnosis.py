"""Each sign is told once where a series shows it, and never where it does not."""

import json

import pytest

from posttrain.engine.diagnosis import WINDOW, Diagnosis

HEALTHY = {
    "kl": 0.4, "clipped": 0.05, "entropy": 1.5, "explained_variance": 0.3, "returns_spread": 0.8, "answer_tokens": 40.0,
    "finished": 0.9, "reward": 0.2,
}  # fmt: skip


def series(n=30, **ends):
    """Healthy numbers on their way to others."""
    for step in range(n):
        along = step / (n - 1)
        yield {name: value + along * (ends.get(name, value) - value) for name, value in HEALTHY.items()}


def told(numbers, diagnosis=None):
    """(step, what is told, cure) of all that is."""
    diagnosis = diagnosis or Diagnosis()
    return [(step, *sign) for step, sums in enumerate(numbers, 1) for sign in diagnosis.of(step, sums)]


SIGNS = {
    "negative KL": ({"kl": -3.0}, "nats an answer, below 0"),
    "exploding KL": ({"kl": 90.0}, "runs away"),
    "clip": ({"clipped": 0.9}, "held back by the clip"),
    "entropy": ({"entropy": 0.02}, "entropy fell from 1."),
    "longer": ({"answer_tokens": 150.0}, "the reward may pay for length"),
    "shorter": ({"answer_tokens": 5.0}, "the reward may pay for length"),
    "unfinished": ({"finished": 0.1}, "end by themselves"),
    "critic": ({"explained_variance": -0.9}, "less than their mean would"),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_a_sign_is_told_once_with_a_cure(sign):
    ends, words = SIGNS[sign]
    found = told(series(60, **ends))
    assert [words in title for _, title, _ in found] == [True]
    ((step, _, cure),) = found
    assert WINDOW < step <= 60
    assert cure.endswith(".")


def test_what_goes_well_is_not_talked_about():
    """Rewards rise, answers change a little, KL grows slowly, and single steps stray."""
    well = list(series(60, kl=4.0, entropy=0.8, explained_variance=0.7, answer_tokens=55.0, finished=1.0, reward=0.9))
    assert told(well) == []
    for step, stray in {20: {"kl": -1.0}, 30: {"clipped": 0.7}, 40: {"explained_variance": -1.0}}.items():
        well[step] = {**well[step], **stray}
    assert told(well) == []


def test_nothing_is_said_before_there_is_a_window():
    assert told([{**HEALTHY, "kl": -5.0, "finished": 0.0}] * (WINDOW - 1)) == []
    assert len(told([{**HEALTHY, "kl": -5.0, "finished": 0.0}] * WINDOW)) == 2


def test_kl_is_far_by_its_target_where_there_is_one():
    numbers = list(series(40, kl=9.0))
    assert told(numbers) == []
    ((_, title, _),) = told(numbers, Diagnosis(kl_target=3.0))
    assert "runs away" in title


def test_a_critic_with_nothing_to_explain_is_not_blamed():
    """Of a policy that has learnt its task every answer earns the same, and what is left is noise."""
    numbers = list(series(60, explained_variance=-0.9))
    for spread, n in ((0.45 * 0.8, 0), (0.6 * 0.8, 1)):
        assert len(told([*numbers[:10], *({**sums, "returns_spread": spread} for sums in numbers[10:])])) == n


def test_a_method_without_critic_or_reference_is_looked_at_too():
    few = [{name: sums[name] for name in ("entropy", "answer_tokens", "finished")} for sums in series(60, entropy=0.01)]
    assert len(told(few)) == 1


@pytest.mark.parametrize("at", [3, WINDOW, 31, 59])
def test_a_resumed_run_says_what_an_unbroken_one_says(at):
    numbers = list(series(60, kl=90.0, finished=0.1, entropy=0.02))
    first, second = Diagnosis(), Diagnosis()
    before = told(numbers[:at], first)
    second.state = json.loads(json.dumps(first.state))
    after = [(step + at, *rest) for step, *rest in told(numbers[at:], second)]
    assert before + after == told(numbers)
    assert len(before + after) == 3
