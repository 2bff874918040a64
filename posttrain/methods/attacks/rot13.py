"""ROT13: the request with every letter thirteen places on.

A Caesar cipher, as in Yuan et al. 2023 (arXiv 2308.06463): a model that can follow it may forget in it what it declines.
"""

import random
from typing import ClassVar

from posttrain.engine.coded import Coded
from posttrain.functional.encodings import from_rot13, rot13


class Rot13(Coded):
    """Write the request in ROT13."""

    code: ClassVar[str] = "ROT13"

    def coded(self, text: str, draw: random.Random) -> str:
        return rot13(text)

    def decoded(self, text: str) -> str:
        return from_rot13(text)
