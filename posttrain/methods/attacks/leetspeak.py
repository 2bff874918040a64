"""Leetspeak: digits that look like letters, which words for filters to find are no longer in.

One of the rewritings of Wei et al. 2023 (arXiv 2307.02483).
"""

from typing import ClassVar

from posttrain.engine.coded import Swapped
from posttrain.functional.encodings import CODES, Code


class Leetspeak(Swapped):
    """Write the request with digits for letters."""

    code: ClassVar[Code] = CODES["leetspeak"]
