"""Spacing: the request is asked with its letters apart, by any sign, and an answer is read with them together."""

from posttrain.functional.encodings import spaced
from tests.besieged import asked, attack, check_code, goal, played, scene


def test_it_asks_with_letters_apart_and_reads_them():
    check_code("spacing", spaced)


def test_another_sign_between():
    made = attack("spacing", between="-", forms=["{request}"])
    assert asked(played(made, goal("open it"), scene())) == ["o-p-e-n i-t"]
    assert made.read("o-p-e-n i-t") == "open it"
