"""Homoglyphs: letters of another script that look the same, so that a reader sees no change and a tokenizer another text.

Boucher et al. 2021 (arXiv 2106.09898), "Bad Characters".
"""

import random
from typing import ClassVar

from pydantic import Field

from posttrain.engine.coded import Coded
from posttrain.functional.encodings import from_homoglyphs, to_homoglyphs


class Homoglyphs(Coded):
    """Write the request in letters that only look the same."""

    code: ClassVar[str] = "letters of several alphabets"

    share: float = Field(1.0, gt=0, le=1)
    """The share of the letters that are changed, of those that can be; which ones is drawn."""

    def coded(self, text: str, draw: random.Random) -> str:
        return to_homoglyphs(text, draw, self.share)

    def decoded(self, text: str) -> str:
        return from_homoglyphs(text)
