"""Base64: the request in a code that models read and safety training has hardly seen.

Wei et al. 2023 (arXiv 2307.02483) attack with it models that are large enough to read it.
"""

from typing import ClassVar

from posttrain.engine.coded import Coded
from posttrain.functional.encodings import CODES, Code


class Base64(Coded):
    """Write the request in base64."""

    code: ClassVar[Code] = CODES["base64"]
