"""Hostile text made inert. Model output and data rows are shown, never obeyed.

Three things are dangerous in a page or a terminal: characters that act without being seen (escape sequences, marks
that turn the reading direction, zero-width ones), markup, and length. `visible` deals with the first, autoescaping in
HTML and `code`/`fence` in Markdown with the second, `clip` with the third.
"""

import re
from typing import NamedTuple

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, delete, C1
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # zero width, reading direction
    "\ud800-\udfff\U000e0000-\U000e007f]"  # lone surrogates, which no file can hold; tags, which hide whole sentences
)
BACKTICKS = re.compile("`+")


class Clipped(NamedTuple):
    """The start of a text, as much of the whole as a page should carry, and how long the text is."""

    start: str
    whole: str
    length: int

    @property
    def cut(self) -> bool:
        """Whether the start is not all of it."""
        return len(self.start) < len(self.whole) or self.length > len(self.whole)


def visible(text: str) -> str:
    """The text with every unseen character as a picture or its number; lines and tabs stay.

    >>> visible("a\\x1b[31mb\\u202ec\\r\\nd")
    'a␛[31mb⟨U+202E⟩c\\nd'
    """
    return UNSEEN.sub(_picture, str(text).replace("\r\n", "\n"))


def one_line(text: str, limit: int = 0) -> str:
    """The text on a single line, line ends shown as ␊; cut to `limit` characters with an ellipsis when given."""
    start = str(text)[: limit + 1] if limit else str(text)
    line = visible(start).replace("\n", "␊").replace("\t", "␉")
    return line[: limit - 1] + "…" if limit and len(line) > limit else line


def clip(text: str, start: int = 900, whole: int = 100_000) -> Clipped:
    """A text split for showing: cut before it is cleaned, so a megabyte costs no more than `whole` characters."""
    text = str(text)
    return Clipped(visible(text[:start]), visible(text[:whole]), len(text))


def code(text: str, limit: int = 0) -> str:
    """A Markdown code span, safe in a table cell: no character in it can end the span, the cell or the row.

    >>> print(code("a|b `c` <script>"))
    ``a│b `c` <script>``
    """
    line = one_line(text, limit).replace("|", "│") or " "
    ticks = "`" * (_longest(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def fence(text: str, limit: int = 0, language: str = "text") -> str:
    """A Markdown code block whose fence is longer than any run of backticks in the text."""
    shown, length = visible(text[:limit] if limit else text), len(text)
    if limit and length > limit:
        shown += f"\n… {length - limit:,} more characters"
    ticks = "`" * max(3, _longest(shown) + 1)
    return f"{ticks}{language}\n{shown}\n{ticks}"


def _longest(text: str) -> int:
    return max((len(run) for run in BACKTICKS.findall(text)), default=0)


def _picture(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x20:
        return chr(0x2400 + number)
    return "␡" if number == 0x7F else f"⟨U+{number:04X}⟩"
