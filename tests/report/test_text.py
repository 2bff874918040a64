"""Hostile text, character by character, and numbers as they are shown."""

import doctest
import unicodedata

import pytest

from posttrain.report import charts, flat, numbers, text
from posttrain.schema.findings import Metric


@pytest.mark.parametrize("module", [text, numbers, charts, flat])
def test_the_examples_of_the_docstrings_hold(module):
    found = doctest.testmod(module)
    assert found.failed == 0 and found.attempted > 0


@pytest.mark.slow
def test_no_character_that_acts_unseen_remains():
    """Every control, format, surrogate and separator character of Unicode, but line feeds, tabs and what joins letters.

    Those joiners and variation marks are spelling in Persian, in Indic scripts and in emoji.
    """
    spelling = {"\n", "\t", "\u200c", "\u200d"}
    acting = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) in ("Cc", "Cs", "Zl", "Zp")]
    bidi = [c for c in map(chr, range(0x110000)) if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF")]
    bidi += [c for c in map(chr, range(0x110000)) if unicodedata.bidirectional(c) in ("LRI", "RLI", "FSI", "PDI")]
    for character in {*acting, *bidi, "\u200b", "\u200e", "\u200f", "\ufeff", "\U000e0041"} - spelling:
        assert character not in text.visible(character)
    assert text.visible("नमस्ते שלום 你好 👩‍👧\n\t") == "नमस्ते שלום 你好 👩‍👧\n\t"


def test_pictures_are_what_a_reader_expects():
    assert text.visible("\x1b\x00\x07\x7f\x9b") == "␛␀␇␡⟨U+009B⟩"
    assert text.one_line("a\r\nb\tc") == "a␊b␉c"
    assert text.one_line("abcdef", 4) == "abc…"


def test_a_megabyte_is_cut_before_it_is_cleaned():
    found = text.clip("\x1b" * 1_000_000, 10, 100)
    assert (found.start, len(found.whole), found.length, found.cut) == ("␛" * 10, 100, 1_000_000, True)
    assert not text.clip("short").cut
    assert len(text.code("x" * 1_000_000, 50)) == 52
    assert "999,600 more characters" in text.fence("x" * 1_000_000, 400)


@pytest.mark.parametrize("inside", ["`", "``", "a`b``c", "", " ", "```\n```", "|", "\\|", "\\"])
def test_nothing_ends_a_code_span_or_a_fence_early(inside):
    span = text.code(inside)
    ticks = len(span) - len(span.lstrip("`"))
    assert "`" * ticks not in span[ticks:-ticks] and span.endswith("`" * ticks)
    assert "|" not in span and "\n" not in span
    opening, *_, closing = text.fence(inside).splitlines()
    assert opening.removesuffix("text") == closing
    assert closing not in inside


@pytest.mark.parametrize(
    "metric, shown",
    [
        (Metric(0.0), "0.0 %"),
        (Metric(1.0), "100.0 %"),
        (Metric(-0.0314, unit="nats"), "−0.031 nats"),
        (Metric(0.000123, unit="nats"), "0.000123 nats"),
        (Metric(12.345, unit="ratio"), "12.3"),
        (Metric(999, unit="bytes"), "999 bytes"),
        (Metric(1_500, unit="bytes"), "1.5 kB"),
        (Metric(7.2e9, unit="bytes"), "7.2 GB"),
        (Metric(88.25, unit="tokens/s"), "88.2 tok/s"),
        (Metric(2_415_000, unit="count"), "2,415,000"),
        (Metric(float("nan")), "not a number"),
        (Metric(float("-inf"), unit="nats"), "−∞"),
        (Metric(3, unit="`|<img src=x>"), "3 img srcx"),
    ],
)
def test_values(metric, shown):
    assert numbers.value(metric) == shown


def test_intervals_say_their_unit_once():
    assert numbers.interval(0.581, 0.667, "share") == "58.1 – 66.7 %"
    assert numbers.interval(9e5, 1.1e6, "bytes") == "900.0 kB – 1.1 MB"
    assert numbers.interval(None, 0.5, "share") == ""


def test_durations_and_chances():
    assert [numbers.seconds(s) for s in (0, 59.94, 60, 3599.7)] == [
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "1 h 00 min",
    ]
    assert (numbers.chance(0.0), numbers.chance(0.0321)) == ("p < 0.001", "p = 0.032")
