"""Rows with their probes as trees."""

import pytest

from posttrain.data.chat import ChatFormat
from posttrain.data.probing import probed
from posttrain.functional.probes import PROBES
from posttrain.schema.rows import Message, Ranked, ToolCall
from tests import tiny

FORM = ChatFormat(tiny.tokenizer())


def row(prompt: str, *answers: str) -> Ranked:
    said = tuple((Message("assistant", answer),) for answer in answers)
    return Ranked((Message("user", prompt),), said, tuple(map(float, range(len(answers), 0, -1))))


ROWS = [row("say abcd", "ab cd", "no"), row("say xyz", "ab cd", "?"), row("say ef", "ef gh", "dc")]


def texts(of, n_answers=2):
    return [FORM.read_answer(branch.tokens) for branch in of.tree.branches[n_answers:]]


def test_probes_stand_behind_the_answers_and_share_their_prompt():
    found = probed(ROWS, 0, PROBES, FORM, 500)
    assert found is not None and list(found.made) == list(PROBES)
    assert FORM.read_answer(found.tree.branches[0].tokens) == "ab cd"
    assert texts(found) == [text.strip() for text in found.made.values()]
    assert found.made["off_topic"] == "ef gh"  # the next row's is the same answer
    assert all(branch.tokens[-1] == 2 for branch in found.tree.branches)  # each ends its turn, the empty one too
    assert len(found.tree.branches[2 + list(PROBES).index("empty")].tokens) == 1


def test_scores_are_told_apart():
    found = probed(ROWS, 0, {"repeated": PROBES["repeated"], "empty": ""}, FORM, 500)
    judged = type(found)(found.row, found.tree, found.made, (2.0, 0.5, 3.0, -1.0))
    assert list(judged.scores) == [2.0, 0.5] and judged.margins == [1.5] and judged.share == 1.0
    assert judged.gains == {"repeated": 1.0, "empty": -3.0}
    assert judged.lengths == [6.0, 3.0]


def test_a_probe_that_does_not_fit_is_left_out_and_an_answer_is_cut():
    room = len(probed(ROWS, 0, {}, FORM, 500).tree.prompt) + 7
    found = probed(ROWS, 0, PROBES, FORM, room)
    assert list(found.made) == ["empty", "truncated", "off_topic"]
    assert len(probed(ROWS, 0, {}, FORM, room - 4).tree.branches[0].tokens) == 3
    assert probed(ROWS, 0, {}, FORM, room - 7) is None


def test_probes_that_are_left_out_and_rows_without_text():
    assert list(probed(ROWS, 0, {**PROBES, "empty": None, "thanks": None}, FORM, 500).made) == [
        "repeated", "flattery", "truncated", "off_topic",
    ]  # fmt: skip
    call = (Message("assistant", "", tool_calls=(ToolCall("look"),)),)
    calling = Ranked((Message("user", "find it"),), (call, (Message("assistant", "no"),)), (2.0, 1.0))
    form = ChatFormat(with_calls())
    assert probed([calling], 0, PROBES, form, 500).made == {}


def with_calls():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = tiny.CHAT.replace(
        "{{ m.content }}", "{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}"
    )
    return tokenizer


def test_a_template_that_cannot_write_a_probe_leaves_it_out():
    """Here it writes nothing where there is no content, not even the end of the turn, and raises for thanks."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if 'Thank' in m.content %}{{ raise_exception('no') }}{% endif %}"
        + (tiny.CHAT.removeprefix("{% for m in messages %}"))
    )
    found = probed(ROWS, 0, PROBES, ChatFormat(tokenizer), 500)
    assert "thanks" not in found.made and "flattery" in found.made


@pytest.mark.parametrize("n", range(3))
def test_one_row_alone_has_no_other(n):
    assert "off_topic" not in probed(ROWS[n : n + 1], 0, PROBES, FORM, 500).made
