"""Base64: the request in a code that models read and safety training has hardly seen.

Wei et al. 2023 (arXiv 2307.02483) attack with it models that are large enough to read it.
"""

import random
from typing import ClassVar

from posttrain.engine.coded import Coded
from posttrain.functional.encodings import from_base64, to_base64


class Base64(Coded):
    """Write the request in base64."""

    code: ClassVar[str] = "Base64"

    def coded(self, text: str, draw: random.Random) -> str:
        return to_base64(text)

    def decoded(self, text: str) -> str:
        return from_base64(text)
