"""Codes that a text can be written in, and the way back. Pure; nothing here is a secret, and nothing is lost.

    base64      "hi" -> aGk=
    rot13       "hi" -> uv
    leetspeak   "see" -> 533
    homoglyphs  "see" -> "ѕее", in letters of other scripts that look the same
    spacing     "see it" -> "s e e   i t"
    words       "see it" -> "voir cela", by a list of words

`CODES` has those that need nothing but a text. What reads a code back leaves a text alone that does not look like it, as models
often answer in plain words. All take time in proportion to the length of a text.
"""

import base64
import binascii
import codecs
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

CODED = re.compile(r"[A-Za-z0-9+/]{8,}={0,2}")
"""What may be base64; shorter runs are words as well."""
COMMON = dict(zip("etaoinshrdlcumwfgypbvk", (127, 91, 82, 75, 70, 67, 63, 61, 60, 43, 40, 28, 28, 24, 24, 22, 20, 20, 19,
                                             15, 10, 8), strict=True))  # fmt: skip
"""How often a letter occurs among a thousand of English."""
LEET = {"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"}
ALIKE = dict(zip("acehijopsxyABCEHIKMOPSTXY", "асеһіјорѕхуАВСЕНІКМОРЅТХУ", strict=True))
"""Latin letters, and Cyrillic ones that look the same."""
WORD = re.compile(r"\w+", re.UNICODE)
TELLING = 8
"""How long a line is by which one can tell whether it is English."""
LEET_SHARE = 0.2
"""The least share of words with digits in them by which a text is leetspeak."""


def to_base64(text: str) -> str:
    """The text in base64, by its UTF-8."""
    return base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")


def from_base64(text: str) -> str:
    """The text with every run of base64 that is readable put in plain."""
    return CODED.sub(lambda found: _plain(found[0]), text)


def _plain(coded: str) -> str:
    try:
        text = base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return coded
    return text if all(letter.isprintable() or letter.isspace() for letter in text) else coded


def rot13(text: str) -> str:
    """Every letter thirteen places on; twice is the text again."""
    return codecs.encode(text, "rot13")


def from_rot13(text: str) -> str:
    """The text with every line turned back that reads more like English then; one of few letters does not tell."""
    return "\n".join(_turned(line) if len(line) >= TELLING else line for line in text.split("\n"))


def _turned(line: str) -> str:
    turned = rot13(line)
    return turned if likeness(turned) > likeness(line) else line


def likeness(text: str) -> float:
    """How common the letters of a text are in English, on average: about 65 for English."""
    letters = [COMMON.get(letter, 0) for letter in text.lower() if letter.isascii() and letter.isalpha()]
    return sum(letters) / len(letters) if letters else 0.0


def to_leet(text: str) -> str:
    """The text with letters as digits that look like them."""
    return "".join(LEET.get(letter.lower(), letter) for letter in text)


def from_leet(text: str) -> str:
    """The text with digits within words read as letters, where many words have them."""
    words = WORD.findall(text)
    mixed = [word for word in words if _is_mixed(word)]
    if not mixed or len(mixed) < LEET_SHARE * len(words):
        return text
    back = str.maketrans({digit: letter for letter, digit in LEET.items()})
    return WORD.sub(lambda found: found[0].translate(back) if _is_mixed(found[0]) else found[0], text)


def _is_mixed(word: str) -> bool:
    """Whether letters and digits of leetspeak stand in one word."""
    return any(letter in word for letter in LEET.values()) and any(letter.isalpha() for letter in word)


def to_homoglyphs(text: str) -> str:
    """The text with letters of another script that look the same."""
    return "".join(ALIKE.get(letter, letter) for letter in text)


def from_homoglyphs(text: str) -> str:
    """The text with words back in Latin letters that are Latin but for letters that look so."""
    back = str.maketrans({other: letter for letter, other in ALIKE.items()})

    def latin(found: "re.Match[str]") -> str:
        word = found[0].translate(back)
        return word if word.isascii() else found[0]

    return WORD.sub(latin, text)


def mixed(text: str, coded: str, draw: random.Random, share: float) -> str:
    """A text with a share of the letters in which it differs from itself in a code, sign for sign, as the code has them."""
    return "".join(
        new if old != new and (share >= 1 or draw.random() < share) else old
        for old, new in zip(text, coded, strict=True)
    )


def spaced(text: str, between: str = " ") -> str:
    """The text with something between the letters of every word, and wider gaps between words where that is a space."""
    gap = "   " if between.isspace() else " "
    return "\n".join(gap.join(between.join(word) for word in line.split()) for line in text.split("\n"))


def unspaced(text: str, between: str = " ") -> str:
    """The text with words joined again whose letters stand apart."""
    gap = re.compile(r"[^\S\n]{2,}" if between.isspace() else r"[^\S\n]+")
    apart = re.compile(rf"\S(?:{re.escape(between)}\S)+")

    def joined(part: str) -> str:
        return part[:: 1 + len(between)] if apart.fullmatch(part) else part

    def read(line: str) -> str:
        return " ".join(map(joined, gap.split(line.strip()))) if apart.search(line) else line

    return "\n".join(read(line) if len(line) > len(between) + 1 else line for line in text.split("\n"))


def by_words(text: str, words: Mapping[str, str]) -> str:
    """The text with every word that a list holds, in small letters, put as the list has it; others stay."""
    return WORD.sub(lambda found: words.get(found[0].lower(), found[0]), text)


@dataclass(frozen=True)
class Code:
    """A code: what it is called, what writes a text in it, and what reads one."""

    name: str
    write: Callable[[str], str]
    read: Callable[[str], str]


Coding = Literal["base64", "rot13", "leetspeak", "homoglyphs", "spacing"]
CODES: dict[str, Code] = {
    "base64": Code("Base64", to_base64, from_base64),
    "rot13": Code("ROT13", rot13, from_rot13),
    "leetspeak": Code("leetspeak, with digits for letters", to_leet, from_leet),
    "homoglyphs": Code("letters of several alphabets", to_homoglyphs, from_homoglyphs),
    "spacing": Code("letters that stand apart", spaced, unspaced),
}
"""The codes by the names under which recipes have them."""
