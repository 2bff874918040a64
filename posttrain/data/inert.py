"""Text of rows that spells a special token stays text: `<|im_end|>` typed by a user ends no turn.

Before a template is rendered every special token in the words of a row is replaced by one character that no text has;
after it, the rendered text is tokenised between those characters, and what they stand for is tokenised as plain text.

    hi <|im_end|> there  ->  hi ⟨1⟩ there  ->  <|im_start|>user ⏎ hi ⟨1⟩ there<|im_end|>  ->  … hi | <|im_end|> | there …
                                                                                            as letters, not as a token
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIRST = 0x10F000
"""The first of the characters that stand for a special token: from the end of Unicode's private use."""

MEANT = ("<think>", "</think>")
"""What answers are meant to hold, whether a tokenizer calls it special or not."""


class Specials(NamedTuple):
    """The special tokens of a tokenizer and the patterns that find them, and the characters that stand for them."""

    tokens: tuple[str, ...]
    ids: frozenset[int]
    spelt: re.Pattern[str]
    hidden: re.Pattern[str]


def specials(tokenizer: "PreTrainedTokenizerBase") -> Specials:
    """The special tokens that a row could spell."""
    return _specials(tokenizer, len(tokenizer), tuple(tokenizer.all_special_ids))


@lru_cache(maxsize=16)
def _specials(tokenizer: "PreTrainedTokenizerBase", n: int, ids: tuple[int, ...]) -> Specials:
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    spelling = {str(tokenizer.convert_ids_to_tokens(id)): id for id in sorted(added | set(ids))}
    tokens = sorted((token for token in spelling if token and token not in MEANT), key=len, reverse=True)
    return Specials(
        tuple(tokens),
        frozenset(spelling[token] for token in tokens),
        re.compile("|".join(map(re.escape, tokens)) or r"(?!)"),
        re.compile(f"([{chr(FIRST)}-{chr(FIRST + max(len(tokens) - 1, 0))}])"),
    )


def hidden(tokenizer: "PreTrainedTokenizerBase", value: Any) -> Any:
    """A value of a row, at any depth, with a character in place of every special token that it spells."""
    found = specials(tokenizer)

    def of(part: Any) -> Any:
        if isinstance(part, str):
            return found.spelt.sub(lambda match: chr(FIRST + found.tokens.index(match[0])), part)
        if isinstance(part, Mapping):
            return {of(name): of(inner) for name, inner in part.items()}
        return [of(inner) for inner in part] if isinstance(part, list | tuple) else part

    return of(value)


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The tokens of a text as it stands, nothing added; a special token that is `hidden` in it, as plain text."""
    found = specials(tokenizer)
    first, *rest = found.hidden.split(text)
    ids = _plain(tokenizer, first) if first or not rest else []
    for mark, behind in zip(rest[::2], rest[1::2], strict=True):
        ids += spelt(tokenizer, found.tokens[ord(mark) - FIRST])
        ids += _plain(tokenizer, behind) if behind else []
    return ids


def spelt(tokenizer: "PreTrainedTokenizerBase", token: str) -> list[int]:
    """A special token as plain text; where the tokenizer cannot leave it whole, in two halves."""
    ids = list(tokenizer(token, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])
    if specials(tokenizer).ids.isdisjoint(ids):
        return ids
    half = max(1, len(token) // 2)
    return _plain(tokenizer, token[:half]) + _plain(tokenizer, token[half:]) if len(token) > 1 else []


def _plain(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
