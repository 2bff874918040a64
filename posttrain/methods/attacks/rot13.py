"""ROT13: the request with every letter thirteen places on.

A Caesar cipher, as in Yuan et al. 2023 (arXiv 2308.06463): a model that can follow it may forget in it what it declines.
"""

from typing import ClassVar

from posttrain.engine.coded import Coded
from posttrain.functional.encodings import CODES, Code


class Rot13(Coded):
    """Write the request in ROT13."""

    code: ClassVar[Code] = CODES["rot13"]
