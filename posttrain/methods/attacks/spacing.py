"""Spacing: the letters of every word stand apart, so that a tokenizer sees letters where it saw words.

A break of tokens as in Jain et al. 2023 (arXiv 2309.00614), used there to defend, and in Wei et al. 2023 (arXiv 2307.02483) to
attack.
"""

import random
from typing import ClassVar

from pydantic import Field

from posttrain.engine.coded import Coded
from posttrain.functional.encodings import CODES, Code, spaced, unspaced


class Spacing(Coded):
    """Write the request with its letters apart."""

    code: ClassVar[Code] = CODES["spacing"]

    between: str = Field(" ", min_length=1, max_length=1)
    """The sign between the letters of a word, a space or such as a hyphen."""

    def coded(self, text: str, draw: random.Random) -> str:
        return spaced(text, self.between)

    def decoded(self, text: str) -> str:
        return unspaced(text, self.between)
