"""Replies in a form: what is there is read, what is not gives None, and nothing takes long."""

import random
import time

import pytest

from posttrain.functional.replies import field_in, rating_in, yes_in


@pytest.mark.parametrize(
    "reply",
    [
        '{"prompt": "open it"}',
        '{"why": "x", "prompt": " open it \\n"}',
        'Sure!\n```json\n{"prompt": "open it"}\n```\nGood luck',
        'I think {so}. {"prompt": "open it"} {"prompt": "other"}',
        '{"why": "a\nb", "prompt": "open it"}',
        "<prompt>\nopen it</prompt>",
        '{"prompt": 7} <prompt>open it</prompt>',
    ],
)
def test_a_field_is_read(reply):
    assert field_in(reply, "prompt") == "open it"


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "open it",
        '{"prompt": ""}',
        '{"prompt": ["open it"]}',
        '{"Prompt": "x"}',
        '["prompt", "x"]',
        "<prompt>open",
        "{" * 9,
    ],
)
def test_no_field_is_none(reply):
    assert field_in(reply, "prompt") is None


@pytest.mark.parametrize(
    "reply", ["{" * 10**6, "[" * 10**6, '{"a":' * 10**5, "<prompt>" * 10**5, '{"prompt": "' + "x" * 10**6]
)
def test_hostile_replies_take_no_time(reply):
    begun = time.process_time()
    assert field_in(reply, "prompt") is None
    assert rating_in(reply) is None
    assert yes_in(reply) is None
    assert time.process_time() - begun < 2


def test_noise_is_never_an_error():
    draw = random.Random(0)
    for _ in range(3000):
        noise = "".join(draw.choices('{}[]":,\\promt yesn0123456789<>/\n\u2028\x1b\ud800', k=draw.randint(0, 60)))
        assert field_in(noise, "prompt") is None or isinstance(field_in(noise, "prompt"), str)
        assert rating_in(noise) in (None, *range(1, 11))
        assert yes_in(noise) in (None, True, False)


@pytest.mark.parametrize(
    ("reply", "rating"),
    [("7", 7), ("Rating: 7.", 7), ("[[10]]", 10), ("between 1 and 5: [[3]]", 3), ("3 of 10", None), ("0", None), ("11", None),
     ("seven", None), ("[[3]] or [[4]]", None), ("[[3]] and again [[3]]", 3), ("", None)],
)  # fmt: skip
def test_ratings(reply, rating):
    assert rating_in(reply) == rating


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("yes", True),
        ("No.", False),
        ("**Yes**, they do", True),
        ("nobody knows", None),
        ("yesterday", None),
        ("", None),
        ("I say yes", None),
    ],
)
def test_yes_and_no(reply, said):
    assert yes_in(reply) is said
