"""Template: forms of your own around a request, as collections of jailbreaks have them.

A form holds the place {request}, or stands before the request. Shen et al. 2023 (arXiv 2308.03825) collected such forms in the
wild.
"""

from pydantic import Field

from posttrain.engine.attack import Wrapped


class Template(Wrapped):
    """Put the request into forms of your own."""

    forms: tuple[str, ...] = Field(min_length=1)
    """Texts with the place {request}, in which the request is put."""
    name: str = ""
    """What the family is called behind `template:`, where there are several."""

    def label(self) -> str:
        return self.name
