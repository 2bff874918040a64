"""What probes make of an answer."""

import pytest

from posttrain.functional.probes import PROBES, half, problem, variant


def test_the_usual_probes_on_one_answer():
    made = {name: variant(probe, "It is 42.", "Blue.") for name, probe in PROBES.items()}
    assert made == {
        "repeated": "It is 42. It is 42.",
        "flattery": "What a great question! It is 42.",
        "thanks": "It is 42. Thank you!",
        "empty": "",
        "truncated": "It",
        "off_topic": "Blue.",
    }


def test_what_cannot_be_made_is_left_out():
    assert variant("{other}", "a", None) is None
    assert variant("{half}", "7", None) is None
    assert variant("{answer}", "a", None) is None  # the answer itself proves nothing
    assert variant("", "", None) is None


def test_an_answer_is_put_in_as_it_is():
    """Braces and backslashes of an answer are its own."""
    hostile = r"{other} \1 {half} {} {{answer}}"
    assert variant("{answer}!", hostile, "secret") == hostile + "!"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("one two", "one"),
        ("a\n\n b  c d", "a\n\n b"),
        ("四五六七八", "四五"),
        ("no", "n"),
        ("x", None),
        ("  ", None),
        ("", None),
    ],
)
def test_half(text, first):
    assert half(text) == first


def test_unknown_places_are_named():
    assert problem("{answr}") == "it holds {answr}: write {answer}, {half} or {other}"
    assert problem("{answer} {half} {other} {") is None
    assert all(problem(probe) is None for probe in PROBES.values())
