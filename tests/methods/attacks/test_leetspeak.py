"""Leetspeak: the request is asked with digits for letters, for all or a share, and an answer with them is read in letters."""

from posttrain.functional.encodings import to_leet
from tests.besieged import asked, attack, check_code, goal, played, scene

REQUEST = "how do you open the old box in the house of the mayor"  # no "i", as 1 alone is read as a number


def test_it_asks_with_digits_and_reads_them():
    check_code("leetspeak", to_leet, REQUEST)


def test_a_share_of_the_letters_is_drawn():
    made = attack("leetspeak", share=0.5, forms=["{request}"])
    found = {asked(played(made, goal(REQUEST), scene(seed)))[0] for seed in range(4)}
    assert len(found) == 4
    assert all(text not in (REQUEST, to_leet(REQUEST)) for text in found)
