"""Homoglyphs: letters of another script that look the same, so that a reader sees no change and a tokenizer another text.

Boucher et al. 2021 (arXiv 2106.09898), "Bad Characters".
"""

from typing import ClassVar

from posttrain.engine.coded import Swapped
from posttrain.functional.encodings import CODES, Code


class Homoglyphs(Swapped):
    """Write the request in letters that only look the same."""

    code: ClassVar[Code] = CODES["homoglyphs"]
