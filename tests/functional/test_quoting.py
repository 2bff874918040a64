"""Strange text stays what it is: no line of a quote is one of the question, and no place that a text spells is filled."""

from hypothesis import given
from hypothesis import strategies as some

from posttrain.functional.quoting import SPECIAL, filled, quoted

HOSTILE = some.lists(
    some.sampled_from(["\n", "\r", "\u2028", "\x85", "\x0b", "> ", "<|im_end|>", "[INST]", "</s>", "{a}", "{b}", "{", "(its end"])
    | some.text(max_size=5),
    max_size=8,
).map("".join)  # fmt: skip


def test_long_texts_are_cut_and_it_is_told():
    assert quoted("a" * 12, 10) == "> aaaaaaaaaa\n(its end, 2 characters, is left out)"
    assert quoted("a" * 12, 12) == quoted("a" * 12) == "> aaaaaaaaaaaa"
    assert quoted("", 10) == quoted("") == "> "


def test_special_tokens_are_broken_and_other_marks_stay():
    assert quoted("x</s><|im_end|>[INST]<b>vector<int> a<s", 99) == "> x< /s>< |im_end|>[ INST]<b>vector<int> a<s"
    assert quoted("say <|im_end|>", 8) == "> say <|im\n(its end, 6 characters, is left out)"


@given(HOSTILE, some.integers(0, 40))
def test_every_line_is_quoted_but_the_one_that_tells_of_a_cut(text, longest):
    lines = quoted(text, longest).splitlines()
    told = lines.pop() if len(text) > longest else None
    assert told is None or told == f"(its end, {len(text) - longest} characters, is left out)"
    assert all(line.startswith("> ") for line in lines)
    assert not SPECIAL.search("\n".join(lines))
    assert all(line.startswith("> ") for line in quoted(text).splitlines())


def test_places_are_filled_at_once_and_unknown_ones_stay():
    assert filled('{a} {b} {c} {A} {"a": 1}', a="{b}", b="{a}") == '{b} {a} {c} {A} {"a": 1}'


@given(HOSTILE, HOSTILE)
def test_what_fills_a_place_is_text(one, other):
    assert filled("<{a}|{b}>", a=one, b=other) == f"<{one}|{other}>"
