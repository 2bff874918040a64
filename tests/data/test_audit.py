"""Every finding is found where it is, and nowhere else: rows that are right give none."""

from dataclasses import replace

import pytest

from posttrain.data.audit import Audit, Finding, audit, rendered
from posttrain.data.chat import ChatFormat
from posttrain.data.dressing import dress
from posttrain.data.rules import disorder
from posttrain.schema.rows import Conversation, Message, Pair, Row, Text, Tokenised, ToolCall, fingerprint
from tests import tiny

END = 2  # <|end|>


def said(question: str, answer: str = "good") -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)))


GOOD = (said("one"), said("two"), said("three"))


def audited(*rows: Row, max_length: int = 100, measured: tuple[Row, ...] = (), template: str | None = None) -> Audit:
    tokenizer = tiny.tokenizer()
    if template:
        dress(tokenizer, template, grows=True)
    form = ChatFormat(tokenizer)
    return audit(list(rendered(rows, form, max_length)), form, max_length, frozenset(map(fingerprint, measured)))


def only(found: Audit) -> Finding:
    (finding,) = found.findings
    return finding


def test_nothing_is_found_in_rows_that_are_right():
    found = audited(*GOOD)
    assert found.findings == ()
    assert (found.rows, found.texts) == (3, 3)
    assert found.lengths == (11, 11, 13), (
        "a token for the user, 3 or 5 letters, the end, one for the assistant, 4 letters, the end"
    )
    assert found.trained_tokens == 3 * len("good.")
    pair = Pair(GOOD[0].messages[:1], GOOD[0].messages[1:], (Message("assistant", "bad"),))
    assert audited(pair, Text("a story")).findings == ()


@pytest.mark.parametrize(
    ("row", "name", "level", "example"),
    [
        (said("one"), "duplicate", "warning", "row 1"),
        (said("four", ""), "empty_answer", "warning", "row 4"),
        (said("four" * 40), "too_long", "warning", "row 4"),
        (said("four <|end|> "), "spelt_token", "warning", "row 4"),
        (Conversation(GOOD[0].messages[1:]), "role_order", "warning", "row 4"),
        (Conversation(GOOD[0].messages[:1]), "unreadable", "error", "row 4"),
        (Tokenised((5, 6, 7), (False, False, False)), "nothing_trained", "warning", "row 4"),
        (Tokenised((5, 6, 7, END), (False, True, True, False)), "stop_not_trained", "warning", "row 4"),
    ],
)
def test_what_is_wrong_with_one_row_is_found_with_its_place(row: Row, name: str, level: str, example: str):
    finding = only(audited(*GOOD, row))
    assert (finding.name, finding.level, finding.example) == (name, level, example)
    assert finding.count == 1 + (name == "duplicate")
    assert finding.of == 4
    assert finding.cure.endswith(".")
    assert f"{finding.count} of 4 rows" in finding.title


def test_a_call_of_a_tool_is_no_empty_answer():
    calls = Message("assistant", "", tool_calls=(ToolCall("add"),))
    row = Conversation((Message("user", "1+1"), calls, Message("tool", "2"), Message("assistant", "2")))
    assert audited(row, template="chatml", max_length=200).findings == ()


def test_rows_that_are_measured_on_are_an_error():
    finding = only(audited(*GOOD, measured=(said("two", "another answer"), said("five"))))
    assert (finding.name, finding.level, finding.count, finding.example) == ("measured_on", "error", 1, "row 2")


def test_a_stop_that_is_never_learnt_makes_a_training_meaningless():
    row = Tokenised((5, 6, 7, END), (False, True, True, False))
    names = [finding.name for finding in audited(row, replace(row, ids=(8, 6, 7, END))).errors]
    assert names == ["never_stops"]
    assert "never_stops" not in [finding.name for finding in audited(row, *GOOD).findings]


def test_nothing_learnt_at_all_makes_a_training_meaningless():
    row = Tokenised((5, 6, 7), (False, False, False))
    silent = Conversation(tuple(replace(message, trained=False) for message in GOOD[0].messages))
    assert [finding.name for finding in audited(row, silent).errors] == ["never_trained"]


def test_texts_end_as_they_do():
    assert audited(Tokenised((5, 6, 7), (False, True, True))).findings == (), "token ids that are all learnt are a text"
    long = audited(Text("a" * 300))
    assert long.findings == (), "a text is cut into pieces and loses nothing"
    assert long.lengths == (301,)
    assert long.texts == 4, "of at most 100 tokens, the last of one being the first of the next"


def with_bos(template: str) -> ChatFormat:
    """A tokenizer that puts <|endoftext|> before every text."""
    from tokenizers import processors

    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|endoftext|>"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.chat_template = template
    return ChatFormat(tokenizer)


@pytest.mark.parametrize(
    ("before", "names"),
    [("", ["missing_bos"]), ("{{ bos_token }}", []), ("{{ bos_token }}{{ bos_token }}", ["double_bos"])],
)
def test_bos_is_there_once(before: str, names: list[str]):
    form = with_bos(before + tiny.CHAT)
    found = audit(list(rendered(GOOD, form, 100)), form, 100)
    assert [finding.name for finding in found.findings] == names
    assert all(finding.count == 3 for finding in found.findings)


def test_padding_that_ends_is_told():
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    form = ChatFormat(tokenizer)
    assert only(audit(list(rendered(GOOD, form, 100)), form, 100)).name == "pad_is_eos"


@pytest.mark.parametrize(
    ("roles", "what"),
    [
        ("system user assistant user assistant", ""),
        ("user assistant tool tool assistant", "a tool answers that nobody called"),
        ("assistant user assistant", "the assistant speaks first"),
        ("user assistant assistant", "assistant after assistant"),
        ("user system assistant", "a system turn that is not the first"),
        ("system system user assistant", "a system turn that is not the first"),
        ("system assistant", "the assistant speaks first"),
    ],
)
def test_the_order_of_turns(roles: str, what: str):
    assert disorder([Message(role, "x") for role in roles.split()]) == what


def test_several_tools_may_answer_one_call():
    calls = Message("assistant", "", tool_calls=(ToolCall("add"), ToolCall("add")))
    turns = [Message("user", "x"), calls, Message("tool", "1"), Message("tool", "2"), Message("assistant", "y")]
    assert disorder(turns) == ""


def test_errors_stand_first_and_everything_is_json():
    import json

    found = audited(said("one", ""), Conversation(GOOD[0].messages[:1]), *GOOD)
    assert [finding.level for finding in found.findings] == ["error", "warning"]
    told = json.loads(json.dumps(found.as_dict()))
    assert told["findings"][0]["name"] == "unreadable"
    assert "must end with the assistant" in told["findings"][0]["cure"]
    assert len(told["lengths"]) == 4
