"""Leetspeak: digits that look like letters, which words for filters to find are no longer in.

One of the rewritings of Wei et al. 2023 (arXiv 2307.02483).
"""

import random
from typing import ClassVar

from pydantic import Field

from posttrain.engine.coded import Coded
from posttrain.functional.encodings import from_leet, to_leet


class Leetspeak(Coded):
    """Write the request with digits for letters."""

    code: ClassVar[str] = "leetspeak, with digits for letters"

    share: float = Field(1.0, gt=0, le=1)
    """The share of the letters that are changed, of those that can be; which ones is drawn."""

    def coded(self, text: str, draw: random.Random) -> str:
        return to_leet(text, draw, self.share)

    def decoded(self, text: str) -> str:
        return from_leet(text)
