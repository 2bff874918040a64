"""Homoglyphs: the request is asked in letters that look the same and are others, and an answer in them is read in Latin."""

from posttrain.functional.encodings import to_homoglyphs
from tests.besieged import REQUEST, attack, check_code


def test_it_asks_in_other_letters_and_reads_them():
    check_code("homoglyphs", to_homoglyphs)


def test_it_looks_the_same_and_is_not():
    coded = to_homoglyphs(REQUEST)
    assert len(coded) == len(REQUEST)
    assert sum(a != b for a, b in zip(coded, REQUEST, strict=True)) > 20
    assert attack("homoglyphs").read("привет мир") == "привет мир"  # what is written in another script stays
