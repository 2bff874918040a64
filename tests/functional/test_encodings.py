"""Codes and the way back: whatever was put in one is read again, and plain text stays as it is."""

import random
import time
from typing import get_args

import pytest

from posttrain.functional.encodings import (
    CODES,
    Coding,
    by_words,
    from_base64,
    from_homoglyphs,
    from_leet,
    from_rot13,
    likeness,
    mixed,
    rot13,
    spaced,
    to_base64,
    to_homoglyphs,
    to_leet,
    unspaced,
)

TEXTS = [
    "First open the old box with the blue key.\nThen take out the map, and wait for 3 hours.",
    "Sure, here are the steps: 1. find the harbor. 2. ask the captain of the ship for bread and salt.",
    "I cannot help with that. In 1984 it took 10 days and 250 men.",
]
WAYS = {
    **{name: (code.write, code.read) for name, code in CODES.items()},
    "half the homoglyphs": (lambda text: mixed(text, to_homoglyphs(text), random.Random(0), 0.5), from_homoglyphs),
    "hyphens": (lambda text: spaced(text, "-"), lambda text: unspaced(text, "-")),
}


@pytest.mark.parametrize("code", [name for name in WAYS if name != "leetspeak"])  # 1 and 10 may be letters in it
@pytest.mark.parametrize("text", TEXTS)
def test_there_and_back(code, text):
    there, back = WAYS[code]
    assert there(text) != text
    assert back(there(text)) == text


@pytest.mark.parametrize("code", WAYS)
@pytest.mark.parametrize(
    "text", [*TEXTS, "", "\n", "box", "Как дела, старый друг?", "你好，打开盒子", "see a b", "I am 10", "{}"]
)
def test_plain_text_stays(code, text):
    assert WAYS[code][1](text) == text


def test_every_code_that_can_be_named_is_there_once():
    assert list(CODES) == list(get_args(Coding))
    assert len({code.name for code in CODES.values()}) == len({code.write for code in CODES.values()}) == len(CODES)


def test_by_hand():
    assert to_base64("hi") == "aGk="
    assert rot13("Hi!") == "Uv!"
    assert to_leet("See it") == "533 17"
    assert spaced("see it\nnow") == "s e e   i t\nn o w"
    assert by_words("The box, THE boxes", {"the": "la", "box": "caja"}) == "la caja, la boxes"
    assert to_homoglyphs("see") == "\u0455\u0435\u0435"


def test_leetspeak_is_read_but_for_words_of_digits_alone():
    assert from_leet("op3n th3 0ld b0x wi7h 12 k3y5") == "open the old box with 12 keys"


def test_base64_among_words_and_without_its_end():
    coded = to_base64("open the old box")
    assert from_base64(f"Sure: {coded} and go.") == "Sure: open the old box and go."
    assert from_base64(to_base64("open the old bo").rstrip("=")) == "open the old bo"
    binary = to_base64("x") + "AAECAwQFBgc="
    assert from_base64(binary) == binary  # what is no text stays


def test_a_share_of_letters_is_drawn_by_the_seed():
    text = "a" * 1000
    half, again, other = (mixed(text, to_leet(text), random.Random(seed), 0.5) for seed in (0, 0, 1))
    assert 400 < half.count("4") < 600
    assert half == again != other
    assert mixed("a box", "4 b0x", random.Random(0), 1.0) == "4 b0x"


def test_english_is_likelier_than_the_same_turned():
    for text in TEXTS:
        assert likeness(text) > 1.3 * likeness(rot13(text))
    assert likeness("") == likeness("123") == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["a " * 500_000, "A" * 10**6, "4a" * 500_000, "a-" * 500_000, " " * 10**6, "а" * 10**6, "\n" * 10**6]
)
def test_a_megabyte_takes_no_time(text):
    begun = time.process_time()
    for back in (from_base64, from_rot13, from_leet, from_homoglyphs, unspaced, lambda t: unspaced(t, "-")):
        assert isinstance(back(text), str)
    assert time.process_time() - begun < 12
