"""What llama.cpp makes of a text, token for token, with the vocabulary that is written into a GGUF file.

Two of its ways are followed here, so that a file can be compared with its tokenizer before anybody runs it: `gpt2` cuts
a text into pieces and merges their bytes by rank; `llama` begins with characters and joins, again and again, the two
neighbours that are the token with the highest score (Kudo and Richardson 2018, arXiv 1808.06226), and writes what is no
token in bytes. Tokens that were added stand apart before either begins, the longest first.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

BLANK = "▁"  # how SentencePiece writes a space
Cut = Callable[[str], list[int]]


def partition(text: str, added: Mapping[str, int]) -> Iterator[str | int]:
    """A text as stretches of text and ids of added tokens."""
    parts: list[str | int] = [text] if text else []
    for token in sorted(added, key=lambda each: -len(each.encode())):
        parts = [inner for part in parts for inner in _without(part, token, added[token])]
    yield from parts


def _without(part: str | int, token: str, of: int) -> Iterator[str | int]:
    if isinstance(part, int) or token not in part:
        yield part
        return
    for i, stretch in enumerate(part.split(token)):
        if i:
            yield of
        if stretch:
            yield stretch


def ids_of(text: str, added: Mapping[str, int], cut: Cut, prefix: str = "") -> list[int]:
    """Token ids of a text without those that begin or end every text; `prefix` goes before a stretch at the start or
    behind an added token."""
    found: list[int] = []
    behind = True
    for part in partition(text, added):
        if isinstance(part, int):
            found.append(part)
        else:
            found += cut(prefix + part if behind else part)
        behind = isinstance(part, int)
    return found


@dataclass(frozen=True)
class ByScore:
    """The `llama` way: tokens with their scores."""

    ids: Mapping[str, int]
    scores: Sequence[float]

    def __call__(self, text: str) -> list[int]:
        """Ids of a text. Raises KeyError for a byte that has no token."""
        symbols: list[str] = list(text.replace(" ", BLANK))
        before, after = list(range(-1, len(symbols) - 1)), [*range(1, len(symbols)), -1]
        queue: list[tuple[float, int, int, str]] = []
        for i in range(len(symbols) - 1):
            self._offer(queue, symbols, i, i + 1)
        while queue:
            _, left, right, joined = heapq.heappop(queue)
            if symbols[left] + symbols[right] != joined or not symbols[left] or not symbols[right]:
                continue
            symbols[left], symbols[right] = joined, ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            self._offer(queue, symbols, before[left], left)
            self._offer(queue, symbols, left, after[left])
        return [id for symbol in symbols if symbol for id in self._final(symbol)]

    def _offer(self, queue: list[tuple[float, int, int, str]], symbols: list[str], left: int, right: int) -> None:
        if left >= 0 and right >= 0 and (id := self.ids.get(symbols[left] + symbols[right])) is not None:
            heapq.heappush(queue, (-self.scores[id], left, right, symbols[left] + symbols[right]))

    def _final(self, symbol: str) -> list[int]:
        if symbol in self.ids:
            return [self.ids[symbol]]
        return [self.ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
