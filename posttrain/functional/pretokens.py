r"""How llama.cpp cuts a text before it merges bytes into tokens, by the name that a GGUF file gives the way.

A name stands for patterns; each cuts further what the ones before it left whole, and what lies between two matches is a
piece as well. llama.cpp matches on a text in which every character beyond ASCII is replaced by one sign for its Unicode
class (letter, number, mark, punctuation, symbol; every space by a vertical tab), so that a pattern can tell capitals
apart in ASCII alone. The same is done here: a table entry agrees with a tokenizer only where the program itself does
(https://github.com/ggml-org/llama.cpp, src/llama-vocab.cpp and src/unicode.cpp).
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
AS_IN_JSON = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # the same as tokenizer.json writes it
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
LAST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + LAST
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + LAST
SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"((?=[\p{L}])([^a-z]))", r"((?=[\p{L}])([^A-Z]))"
CAPITALS, SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
AHEAD = r"[^\r\n\p{L}\p{N}]?"
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)


@dataclass(frozen=True)
class Way:
    """`patterns` are llama.cpp's, `known` further ways to write the same in tokenizer.json; `whole` says that a piece
    which is a token is taken as it is, whatever the merges say (`ignore_merges`)."""

    name: str
    patterns: tuple[str, ...]
    known: tuple[tuple[str, ...], ...] = ()
    whole: bool = False


WAYS = (  # of two with the same patterns, the one that more programs know comes first
    Way("gpt-2", (GPT2,)),
    Way("llama-bpe", (LLAMA3,), whole=True),
    Way("smaug-bpe", (LLAMA3,)),
    Way("qwen2", (QWEN2,)),
    Way("smollm", (r"\p{N}", GPT2)),
    Way(
        "tekken",
        (f"{AHEAD}{UPPER}*{LOWER}+|{AHEAD}{UPPER}+{LOWER}*|\\p{{N}}{SLASHED}",),
        ((f"{AHEAD}{CAPITALS}*{SMALL}+|{AHEAD}{CAPITALS}+{SMALL}*|\\p{{N}}{SLASHED}",),),
        whole=True,
    ),
    Way(
        "gpt-4o",
        (f"{AHEAD}{UPPER}*{LOWER}+{CONTRACTIONS}?|{AHEAD}{UPPER}+{LOWER}*{CONTRACTIONS}?|\\p{{N}}{{1,3}}{SLASHED}",),
        (
            (
                f"{AHEAD}{CAPITALS}*{SMALL}+{CONTRACTIONS}?|{AHEAD}{CAPITALS}+{SMALL}*{CONTRACTIONS}?"
                f"|\\p{{N}}{{1,3}}{SLASHED}",
            ),
        ),
    ),
    Way("deepseek-v3", DEEPSEEK3),
    Way("deepseek-coder", ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")),
    Way("falcon", (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    Way("minicpm5", (r"\p{N}{1,3}", LLAMA3.replace("{1,3}", "+")), whole=True),
    Way("seed-coder", (QWEN2.replace(r"\p{N}]+[\r\n]*", r"\p{N}\r\n]+"),)),
    Way("bailingmoe", (QWEN2.replace(r"\s*[\r\n]+", r"\s*[\r\n]"),)),
    Way("ufakzeka", (QWEN2.removeprefix(CONTRACTIONS + "|"),)),
    Way("bloom", (r" ?[^(\s|.,!?…。，、।۔،)]+",)),
    Way("viking", (r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}")),
)

SIGNS = {"N": "\xd1", "L": "\xd2", "P": "\xd3", "M": "\xd4", "S": "\xd5"}
OTHER = "\xd0"
IN_ASCII = {
    "N": "0-9",
    "L": "A-Za-z",
    "P": r"!-#%-*,-/:-;?-@\[-\]_\{\}",
    "M": "",
    "S": r"$+<->\^`|~",
}
CLASS = re.compile(r"\\p\{([LNPMS])[a-z]?\}")
SPACES = re.compile(r"[^\S\x00-\x7f]")


def pieces(text: str, patterns: Sequence[str]) -> list[str]:
    """The pieces that llama.cpp cuts a text into, in order; joined they are the text."""
    signs, spaced = _signs(text), SPACES.sub("\x0b", text)
    ends = [len(text)]
    for pattern in patterns:
        seen = signs if CLASS.search(pattern) else spaced
        ends = list(_ends(_compiled(pattern), seen, ends))
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def canonical(patterns: Iterable[str]) -> tuple[str, ...]:
    """Patterns as they can be compared: contractions written one way, an ending that changes nothing left out."""
    written = (pattern.replace(AS_IN_JSON, CONTRACTIONS) for pattern in patterns)
    return tuple(p.removesuffix(r"|\s+") if p.endswith(r"|\s+(?!\S)|\s+") else p for p in written)


def ways_of(patterns: Sequence[str]) -> list[Way]:
    """The entries of the table whose patterns are these, as tokenizer.json writes them."""
    wanted = canonical(patterns)
    return [way for way in WAYS if wanted in {canonical(each) for each in (way.patterns, *way.known)}]


def _ends(pattern: "re.Pattern[str]", seen: str, ends: Sequence[int]) -> Iterable[int]:
    """Where pieces end once each is cut by a pattern, which sees no further than the piece."""
    start = 0
    for end in ends:
        piece, last = seen[start:end], 0
        for found in pattern.finditer(piece):
            if found.end() > found.start():
                if found.start() > last:
                    yield start + found.start()
                yield start + found.end()
                last = found.end()
        if start + last < end:
            yield end
        start = end


def _signs(text: str) -> str:
    return "".join(each if each < "\x80" else _sign(each) for each in text)


@cache
def _sign(character: str) -> str:
    if SPACES.match(character):
        return "\x0b"
    return SIGNS.get(unicodedata.category(character)[0], OTHER)


@cache
def _compiled(pattern: str) -> "re.Pattern[str]":
    """A pattern on signs: classes become the signs and what ASCII has of them; a space is one of C's six."""
    inside, found, at = False, "", 0
    while at < len(pattern):
        at_class = CLASS.match(pattern, at)
        escaped = at > 0 and pattern[at - 1] == "\\"
        if at_class:
            members = SIGNS[at_class[1]] + IN_ASCII[at_class[1]]
            found, at = found + (members if inside else f"[{members}]"), at_class.end()
            continue
        if pattern[at] == "[" and not escaped:
            inside = True
        elif pattern[at] == "]" and not escaped:
            inside = False
        found, at = found + pattern[at], at + 1
    return re.compile(found, re.ASCII)
