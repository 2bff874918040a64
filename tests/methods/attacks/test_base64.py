"""Base64: the request is asked in the code, and an answer in the code is read in plain."""

from posttrain.functional.encodings import to_base64
from tests.besieged import check_code


def test_it_asks_in_base64_and_reads_it():
    check_code("base64", to_base64)
