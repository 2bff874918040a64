"""How llama.cpp cuts texts: pieces by hand, and the same text whatever the way."""

import re
from itertools import combinations

import pytest

from posttrain.data.varied_texts import N_TEXTS, varied_texts
from posttrain.functional.pretokens import AS_IN_JSON, GPT2, LAST, WAYS, canonical, pieces, ways_of

WAY = {way.name: way.patterns for way in WAYS}


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("gpt-2", "it's 1234  x!", ["it", "'s", " 1234", " ", " x", "!"]),
        ("gpt-2", "IT'S", ["IT", "'", "S"]),
        ("llama-bpe", "IT'S 1234", ["IT", "'S", " ", "123", "4"]),
        ("qwen2", "x12\n\ny", ["x", "1", "2", "\n\n", "y"]),
        ("smollm", "x12 y", ["x", "1", "2", " y"]),
        ("tekken", "CamelCase", ["Camel", "Case"]),
        ("gpt-4o", "CamelCase's 1234", ["Camel", "Case's", " ", "123", "4"]),
        ("deepseek-v3", "你好a1", ["你好", "a", "1"]),
        ("falcon", "a+b 1234", ["a", "+", "b", " ", "123", "4"]),
        ("qwen2", "naïve 東京\u3000x", ["naïve", " 東京", "\u3000x"]),
    ],
)
def test_pieces_by_hand(name, text, wanted):
    assert pieces(text, WAY[name]) == wanted


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_nothing_is_lost_or_added(way):
    texts = varied_texts(["<|end|>"])
    assert len(texts) == len(set(texts)) == N_TEXTS >= 500
    for text in texts:
        assert "".join(pieces(text, way.patterns)) == text
        assert all(pieces(text, way.patterns))


def test_another_way_shows():
    """On many texts, whichever two ways are taken for one another."""
    texts = varied_texts()
    names = ("gpt-2", "llama-bpe", "qwen2", "smollm", "tekken", "gpt-4o", "deepseek-v3", "falcon")
    cut = {name: [pieces(text, WAY[name]) for text in texts] for name in names}
    for one, other in combinations(names, 2):
        assert sum(a != b for a, b in zip(cut[one], cut[other], strict=True)) > 40, (one, other)


@pytest.mark.parametrize(
    ("hard", "times"),
    [
        ("[一-龥]", 50),  # Chinese
        ("[\U0001f000-\U0001faff\ufe0f]\u200d", 20),  # joined emoji
        ("[\x01-\x08\x0e-\x1f\x7f-\x9f]", 40),  # control characters
        (r"\d{12}", 12),
        (r" {6}|\t\t\t", 30),
        (r"\n[ \t]+\S.*\n", 10),  # code
        ("[A-Za-z][а-я]|[а-я][A-Za-z]|[a-z][一-龥]", 8),  # scripts in one word
        (r"<\|end\|>", 40),
    ],
)
def test_what_is_hard_is_there(hard, times):
    assert sum(bool(re.search(hard, text)) for text in varied_texts(["<|end|>"])) > times


def test_letters_beyond_ascii_are_capitals_and_small_at_once():
    """As in llama.cpp, which sees one sign for all of them; the tokenizers themselves tell them apart."""
    assert pieces("éÉ", WAY["tekken"]) == ["éÉ"]
    assert pieces("eE", WAY["tekken"]) == ["e", "E"]


def test_rules_are_known_however_they_are_written():
    llama3 = AS_IN_JSON + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + LAST
    assert [way.name for way in ways_of([llama3])] == ["llama-bpe", "smaug-bpe"]
    assert [way.name for way in ways_of([GPT2 + r"|\s+"])] == ["gpt-2"]
    assert [way.name for way in ways_of([r"\p{N}", GPT2])] == ["smollm"]
    assert ways_of([r"\p{L}+"]) == []
    assert canonical([AS_IN_JSON]) != canonical([GPT2])
