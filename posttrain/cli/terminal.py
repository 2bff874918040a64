"""What is written where, and how it looks: answers on stdout, narration on stderr, JSON when asked for.

Whatever is shown is made inert first (control characters become pictures); colour is put around it afterwards.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TextIO

from posttrain.report.text import one_line, visible

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
PLAIN = str.maketrans({"…": "...", "·": "-", "→": "->", "–": "-", "—": "-", "−": "-", "×": "x", "█": "#", "░": "."})


class Paint(NamedTuple):
    """A text with a style; plain where there is no colour."""

    text: str
    style: str


Part = str | Paint


@dataclass
class Terminal:
    """Where a command speaks. `live` allows a line that is rewritten; `quiet` leaves errors alone on stderr."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    live: bool = False
    colour_out: bool = False
    colour_err: bool = False
    ascii_out: bool = False
    ascii_err: bool = False
    drawn: bool = False

    @classmethod
    def of(cls, words: Sequence[str]) -> "Terminal":
        """The terminal for a command line and the environment. Read before the words are parsed, so that an error in
        them is already told in the right form."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        as_json, live = "--json" in words, _is_terminal(sys.stderr)
        return cls(
            json=as_json,
            quiet="-q" in words or "--quiet" in words,
            verbose="-v" in words or "--verbose" in words,
            live=live and not as_json,
            colour_out=_has_colour(sys.stdout),
            colour_err=_has_colour(sys.stderr),
            ascii_out=not _is_unicode(sys.stdout),
            ascii_err=not _is_unicode(sys.stderr),
        )

    @property
    def width(self) -> int:
        return shutil.get_terminal_size((100, 24)).columns

    def answer(self, *parts: Part) -> None:
        """A line of what was asked for, on stdout."""
        sys.stdout.write(self._line(parts, self.colour_out, self.ascii_out) + "\n")

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Rows of an answer in columns, the first one bold; nothing for no rows."""
        shown = [[one_line(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        for first, *others in shown:
            rest = "  ".join(cell.ljust(width) for cell, width in zip(others, widths[1:], strict=True))
            self.answer("  ", Paint(first.ljust(widths[0]), "bold"), f"  {rest}".rstrip())

    def object(self, value: Mapping[str, Any]) -> None:
        """One JSON object as a line on stdout, at once."""
        sys.stdout.write(json.dumps(value, ensure_ascii=self.ascii_out, default=str) + "\n")
        sys.stdout.flush()

    def say(self, *parts: Part) -> None:
        """A line of narration on stderr, unless quiet."""
        if not self.quiet:
            self.complain(*parts)

    def complain(self, *parts: Part) -> None:
        """A line on stderr that is written even when quiet."""
        self.clear()
        sys.stderr.write(self._line(parts, self.colour_err, self.ascii_err) + "\n")
        sys.stderr.flush()

    def draw(self, text: str) -> None:
        """Rewrites the live line. Nothing where there is no terminal."""
        if self.live and not self.quiet:
            shown = self._line([text.replace("\n", " ")], False, self.ascii_err)[: self.width - 1]
            sys.stderr.write(f"\r\x1b[2K{shown}")
            sys.stderr.flush()
            self.drawn = True

    def clear(self) -> None:
        """Removes the live line, so that the next line starts on a clean one."""
        if self.drawn:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self.drawn = False

    def next(self, *commands: str) -> None:
        """The last line of a command: what to type next."""
        self.say(Paint("Next  ", "dim"), "   ".join(commands))

    def _line(self, parts: Sequence[Part], colour: bool, ascii_only: bool) -> str:
        return "".join(_painted(part, colour, ascii_only) for part in parts)


def _painted(part: Part, colour: bool, ascii_only: bool) -> str:
    text, style = part if isinstance(part, Paint) else (part, "")
    shown = visible(text)
    if ascii_only:
        shown = shown.translate(PLAIN)
    return f"\x1b[{STYLES[style]}m{shown}\x1b[0m" if colour and style else shown


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _has_colour(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or _is_terminal(stream)


def _is_unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")
