"""Lengths as bars and as a picture that any program opens."""

import struct
import zlib

import pytest

from posttrain.report.histogram import HEIGHT, RED, WIDTH, bars, bins, png


@pytest.mark.parametrize("lengths", [[], [0], [7] * 3, [1, 2, 12, 25], list(range(1000)), [3, 4] * 50 + [10**6]])
def test_every_length_is_in_one_bin(lengths: list[int]):
    found = bins(lengths)
    for each in found:
        assert each.count == sum(each.low <= length and (each.high is None or length < each.high) for length in lengths)
    assert sum(each.count for each in found) == len(lengths)
    assert len(found) <= 2 + 14 * 2


def test_lengths_far_beyond_share_a_bin():
    *near, far = bins([10, 20, 30] * 30 + [5000])
    assert (far.name, far.count) == ("64+", 1) or (far.high is None and far.count == 1)
    assert near[-1].high == far.low <= 4 * 30


def test_bars_are_in_proportion():
    lines = bars([5] * 40 + [15] * 20 + [25], width=40)
    assert [line.count("█") for line in lines if "█" in line] == [40, 20, 1]
    assert lines[-1].endswith(" 1")


def pixels(picture: bytes) -> list[bytes]:
    """The rows of a picture, every chunk of which must be sound."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    at, data = 8, b""
    while at < len(picture):
        length, kind = struct.unpack(">I4s", picture[at : at + 8])
        body = picture[at + 8 : at + 8 + length]
        assert struct.unpack(">I", picture[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    raw = zlib.decompress(data)
    stride = 3 * WIDTH + 1
    assert len(raw) == stride * HEIGHT
    assert all(raw[n * stride] == 0 for n in range(HEIGHT)), "no filter"
    return [raw[n * stride + 1 : (n + 1) * stride] for n in range(HEIGHT)]


def coloured(row: bytes, colour: tuple[int, int, int]) -> int:
    return sum(row[n : n + 3] == bytes(colour) for n in range(0, len(row), 3))


def test_the_picture_is_a_png_with_a_line_at_the_limit():
    lengths = [10] * 30 + [60] * 10
    rows = pixels(png(lengths, 40))
    assert max(coloured(row, RED) for row in rows[30:300]) == 2, "a line two pixels wide"
    assert png(lengths, 40) == png(lengths, 40)
    assert not any(coloured(row, RED) for row in pixels(png(lengths, 4000))), "a limit beyond all lengths is not drawn"
    assert pixels(png([], 100))
