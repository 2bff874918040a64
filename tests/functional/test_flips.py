"""What an answer is, and how two of them differ."""

import pytest

from posttrain.functional.flips import BETTER, KINDS, Traits, flips, is_json, refuses, traits


@pytest.mark.parametrize(
    ("answer", "holds"),
    [('{"a": 1}', True), (" [1, 2] ", True), ("```json\n{}\n```", True), ("42", False), ('"a"', False), ("{a: 1}", False),
     ('{"a": 1} or so', False), ('{"a": NaN}', False), ("", False), ("[" * 100_000, False)],
)  # fmt: skip
def test_an_object_or_a_list_is_json(answer, holds):
    assert is_json(answer) is holds


def test_what_cannot_be_told_is_no_refusal():
    assert refuses("Sorry, I can't help with that.")
    assert not refuses("") and not refuses("The tea is on the table.")


def test_half_a_score_is_not_right():
    assert [traits("", True, score).right for score in (None, 0.0, 0.5, 1.0)] == [None, False, False, True]


PLAIN = Traits(None, False, False, False)


@pytest.mark.parametrize("trait", KINDS)
def test_each_trait_goes_and_comes(trait):
    without, having = (PLAIN._replace(**{trait: value}) for value in (False, True))
    gone, come = KINDS[trait]
    assert flips(having, without) == (gone,) and flips(without, having) == (come,)
    assert flips(having, having) == () == flips(without, without)
    assert {gone, come} <= BETTER.keys()


def test_what_has_no_verdict_on_either_side_did_not_flip():
    assert flips(PLAIN._replace(right=True), PLAIN) == () == flips(PLAIN, PLAIN._replace(right=False))
