"""How often which length is there: as bars of text, and as a PNG that is written here, byte by byte.

Bins are of equal, round width. Where a few lengths lie far beyond the others, the last bin holds all of them. The picture
needs no drawing package: a PNG is a header, rows of pixels compressed by zlib, and an end (W3C PNG, 3rd edition).
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .charts import ticks

MOST_BINS = 14
FAR = 4  # times the length that 95 % do not exceed: what lies beyond is put into one bin
BAR = "█"
WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 24, 48
SCALE = 2
WHITE, INK, PALE, GRID = (255, 255, 255), (60, 60, 60), (130, 130, 130), (225, 225, 225)
BLUE, RED = (70, 130, 180), (200, 60, 60)
GLYPHS = {  # 3 by 5 pixels, a row of three bits a digit
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71111",
    "8": "75757", "9": "75717", "+": "02720", " ": "00000",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bin:
    """How many lengths are from `low` up to `high`, which is left out; all from `low` on where `high` is None."""

    low: int
    high: int | None
    count: int

    @property
    def name(self) -> str:
        if self.high is None:
            return f"{self.low}+"
        return str(self.low) if self.high == self.low + 1 else f"{self.low}–{self.high - 1}"


def bins(lengths: Sequence[int], most: int = MOST_BINS) -> list[Bin]:
    """Lengths in at most `most` bins and one for those far beyond.

    >>> [(each.name, each.count) for each in bins([1, 2, 3, 90, 20_000], most=3)]
    [('0–99', 4), ('100–199', 0), ('200+', 1)]
    """
    if not lengths:
        return []
    ordered = sorted(lengths)
    usual = ordered[(len(ordered) - 1) * 95 // 100]
    top = 2 * usual if ordered[-1] > FAR * max(usual, 1) else ordered[-1]
    edges = ticks(0, top + 1, most, whole=True)
    width = round(edges[1] - edges[0]) if len(edges) > 1 else top + 1
    n = top // width + 1
    counts = [0] * (n + 1)
    for length in ordered:
        counts[min(length // width, n)] += 1
    made = [Bin(i * width, (i + 1) * width, count) for i, count in enumerate(counts[:n])]
    return [*made, Bin(n * width, None, counts[n])] if counts[n] else made


def bars(lengths: Sequence[int], width: int = 40) -> list[str]:
    """A line for every bin: its lengths, a bar, how many."""
    found = bins(lengths)
    most = max((each.count for each in found), default=0)
    names = max((len(each.name) for each in found), default=0)
    return [f"{each.name:>{names}}  {BAR * _bar(each.count, most, width)} {each.count}" for each in found]


def _bar(count: int, most: int, width: int) -> int:
    return max(round(width * count / most), 1) if count else 0


def png(lengths: Sequence[int], limit: int) -> bytes:
    """The histogram as a picture: lengths to the right, counts upwards, a red line at `limit`."""
    found = bins(lengths) or [Bin(0, 1, 0)]
    canvas, across = Canvas(), WIDTH - LEFT - RIGHT
    most = max(*(each.count for each in found), 1)
    for tick in ticks(0, most, 4, whole=True):
        y = _height(round(tick), most)
        canvas.fill(LEFT, y, across, 1, GRID)
        canvas.write(str(round(tick)), LEFT - 8, y - 5, PALE, right=True)
    step, each_of = across // len(found), -(-len(found) // 8)
    for i, each in enumerate(found):
        x, y = LEFT + i * step, _height(each.count, most)
        canvas.fill(x + 2, y, step - 4, HEIGHT - BOTTOM - y, BLUE)
        if i % each_of == 0:
            canvas.write(f"{each.low}+" if each.high is None else str(each.low), x, HEIGHT - BOTTOM + 10, INK)
    canvas.fill(LEFT, HEIGHT - BOTTOM, across, 2, INK)
    first = found[0].high or 1
    if limit <= first * len(found):
        x = LEFT + round(limit / first * step)
        canvas.fill(x, TOP, 2, HEIGHT - BOTTOM - TOP, RED)
        canvas.write(str(limit), x, TOP - 16, RED, right=x > WIDTH - 80)
    return canvas.png()


Colour = tuple[int, int, int]


def _height(count: int, most: int) -> int:
    return HEIGHT - BOTTOM - round((HEIGHT - BOTTOM - TOP) * count / most)


@dataclass
class Canvas:
    """Pixels, three bytes each, from the upper left."""

    pixels: bytearray = field(default_factory=lambda: bytearray(bytes(WHITE) * (WIDTH * HEIGHT)))

    def fill(self, x: int, y: int, width: int, height: int, colour: Colour) -> None:
        """A rectangle; what lies outside the picture is left out."""
        left, right = max(x, 0), min(x + width, WIDTH)
        for row in range(max(y, 0), min(y + height, HEIGHT)):
            start = 3 * (row * WIDTH + left)
            self.pixels[start : start + 3 * max(right - left, 0)] = bytes(colour) * max(right - left, 0)

    def write(self, text: str, x: int, y: int, colour: Colour, *, right: bool = False) -> None:
        """Digits, from `x` on or up to it."""
        x -= 4 * SCALE * len(text) * right
        for place, glyph in enumerate(text):
            for row, column in _dots(GLYPHS.get(glyph, GLYPHS[" "])):
                self.fill(x + SCALE * (4 * place + column), y + SCALE * row, SCALE, SCALE, colour)

    def png(self) -> bytes:
        """The picture as the bytes of a file."""
        stride = 3 * WIDTH
        rows = b"".join(b"\0" + self.pixels[n * stride : (n + 1) * stride] for n in range(HEIGHT))
        header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _dots(glyph: Iterable[str]) -> Iterator[tuple[int, int]]:
    return ((row, column) for row, bits in enumerate(glyph) for column in range(3) if int(bits) >> (2 - column) & 1)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
