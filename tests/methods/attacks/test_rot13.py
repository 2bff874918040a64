"""Rot13: the request is asked in the code, and an answer in the code is read in plain."""

from posttrain.functional.encodings import rot13
from tests.besieged import check_code


def test_it_asks_in_rot13_and_reads_it():
    check_code("rot13", rot13)
