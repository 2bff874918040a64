"""Layouts and shapes: what is recognised, what becomes of it, what is said about it, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.read import read
from posttrain.schema.artifacts import Dataset, FileEntry
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Labelled, Message, Pair, Prompt, Row, Text

RowsFile = Callable[..., Dataset]

HI, HELLO, BYE = Message("user", "hi"), Message("assistant", "hello"), Message("assistant", "go away")
KIND = Message("system", "be kind")
CHAT = Conversation((HI, HELLO))
PAIR = Pair((HI,), (HELLO,), (BYE,))

LAYOUTS: dict[str, tuple[dict[str, Any], Row]] = {
    "text": ({"text": "once upon a time"}, Text("once upon a time")),
    "alpaca": ({"instruction": "hi", "input": "", "output": "hello"}, CHAT),
    "alpaca with everything": (
        {"instruction": "and", "input": "3", "output": "4", "system": "be kind", "history": [["hi", "hello"]]},
        Conversation((KIND, HI, HELLO, Message("user", "and\n3"), Message("assistant", "4"))),
    ),
    "dolly": (
        {"instruction": "who", "context": "Ann.", "response": "Ann", "category": "qa"},
        Conversation((Message("user", "who\nAnn."), Message("assistant", "Ann"))),
    ),
    "prompt, completion": ({"prompt": "hi", "completion": "hello"}, CHAT),
    "prompt, completion as messages": (
        {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "hello"}]},
        CHAT,
    ),
    "question, answer": ({"Question": "hi", "answer": "hello"}, CHAT),
    "question, answer in Chinese": ({"问": "hi", "答": "hello"}, CHAT),
    "messages": ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}, CHAT),
    "messages of typed blocks": (
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "value": "kind"}]},
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [{"type": "text", "value": "hello"}], "loss_weight": 1.0},
            ]
        },
        Conversation((KIND, HI, HELLO)),
    ),
    "messages in a cell": (
        {"messages": '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]'},
        CHAT,
    ),
    "sharegpt": (
        {"system": "be kind", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        Conversation((KIND, HI, HELLO)),
    ),
    "sharegpt with tools": (
        {
            "conversations": [
                {"from": "human", "value": "hi"},
                {"from": "function_call", "value": "{}"},
                {"from": "observation", "value": "[]"},
                {"from": "gpt", "value": "hello"},
            ]
        },
        Conversation((HI, Message("assistant", "{}"), Message("tool", "[]"), HELLO)),
    ),
    "preferences": ({"prompt": "hi", "chosen": "hello", "rejected": "go away"}, PAIR),
    "preferences in hh-rlhf's way": (
        {
            "chosen": "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: hi\n\nAssistant: hello",
            "rejected": "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: hi\n\nAssistant: go away",
        },
        Pair((HI, Message("assistant", "yes?"), HI), (HELLO,), (BYE,)),
    ),
    "preferences with the prompt of hh-rlhf": (
        {"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": "hello", "rejected": "go away"},
        PAIR,
    ),
    "preferences as whole message lists": (
        {
            "prompt": "hi",
            "chosen": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
            "rejected": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "go away"}],
        },
        PAIR,
    ),
    "preferences of LLaMA-Factory": (
        {
            "conversations": [{"from": "system", "value": "be kind"}, {"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "hello"},
            "rejected": {"from": "gpt", "value": "go away"},
        },
        Pair((KIND, HI), (HELLO,), (BYE,)),
    ),
    "labelled": ({"prompt": "hi", "completion": "go away", "label": False}, Labelled((HI,), (BYE,), False)),
    "labelled messages": (
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}], "label": "True"},
        Labelled((HI,), (HELLO,), True),
    ),
    "prompt alone": ({"prompt": "hi"}, Prompt((HI,))),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_recognised(name: str, rows_file: RowsFile) -> None:
    columns, row = LAYOUTS[name]
    assert read(rows_file(columns), type(row)).rows == [row]


def test_a_pair_is_a_conversation_two_labelled_answers_and_a_prompt(rows_file: RowsFile) -> None:
    data = rows_file({"prompt": "hi", "chosen": "hello", "rejected": "go away"})
    assert read(data, Conversation).rows == [CHAT]
    assert read(data, Labelled).rows == [Labelled((HI,), (HELLO,), True), Labelled((HI,), (BYE,), False)]
    assert read(data, Prompt).rows == [Prompt((HI,), "hello")]


def test_only_thumbs_up_are_learnt_as_conversations(rows_file: RowsFile) -> None:
    data = rows_file(
        {"prompt": "hi", "completion": "hello", "label": 1}, {"prompt": "hi", "completion": "go away", "label": 0}
    )
    reading = read(data, Conversation)
    assert reading.rows == [CHAT]
    assert "1 left out as the answer has a thumb down" in reading.decision
    assert [row.answer for row in read(data, Prompt).rows] == ["hello", None]


def test_a_label_of_classes_is_no_thumb(rows_file: RowsFile) -> None:
    data = rows_file({"prompt": "hi", "completion": "hello", "label": "greeting"})
    assert read(data, Conversation).rows == [CHAT]
    with pytest.raises(DataError, match="cannot be read as Labelled"):
        read(data, Labelled)


def test_a_prompt_keeps_what_a_grader_may_want(rows_file: RowsFile) -> None:
    row = {"prompt": "red ->", "answer": 4, "task": "word_zel", "plain": "red ->", "style": "short", "n": [1]}
    (prompt,) = read(rows_file(row), Prompt).rows
    assert prompt == Prompt((Message("user", "red ->"),), "4", "word_zel", "red ->", {"style": "short", "n": [1]})


def test_the_last_answer_of_a_conversation_is_what_its_prompt_expects(rows_file: RowsFile) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    asks = [*turns, {"role": "user", "content": "hi"}]
    rows = read(
        rows_file({"messages": turns, "task": "a"}, {"messages": asks}, {"messages": asks, "answer": "x"}), Prompt
    ).rows
    assert rows == [Prompt((HI,), "hello", "a"), Prompt((HI, HELLO, HI)), Prompt((HI, HELLO, HI), "x")]


def test_a_final_answer_beside_a_completion_is_what_is_graded(rows_file: RowsFile) -> None:
    data = rows_file({"question": "2+3", "solution": "2 and 3 make 5", "answer": "5"})
    assert read(data, Prompt).rows[0].answer == "5"
    assert read(data, Conversation).rows[0].messages[-1].content == "2 and 3 make 5"


def test_text_is_read_where_other_columns_look_more_telling(rows_file: RowsFile) -> None:
    row = {"instruction": "hi", "output": "hello", "text": "### hi ### hello"}
    assert read(rows_file(row), Text).rows == [Text("### hi ### hello")]
    assert read(rows_file(row), Conversation).rows == [CHAT]


def test_the_users_map_goes_before_detection(rows_file: RowsFile) -> None:
    row = {"instruction": "no", "output": "no", "q": "hi", "a": "hello", "context": "unrelated"}
    assert read(rows_file(row, columns={"prompt": "q", "completion": "a"}), Conversation).rows == [CHAT]
    assert read(rows_file(row, columns={"question": "q", "answer": "a"}), Prompt).rows[0].answer == "hello"
    half = read(rows_file(row, columns={"prompt": "q"}), Conversation).rows[0]
    assert [m.content for m in half.messages] == ["hi\nunrelated", "no"]


def test_the_decision_is_one_line_that_names_every_column(rows_file: RowsFile) -> None:
    row = {"instruction": "a", "input": "b", "output": "c", "id": 7}
    data = rows_file(row, {**row, "output": ""})
    assert read(data, Conversation).decision == (
        "2 rows of alpaca (rows.jsonl): instruction + input -> user, output -> assistant (not used: id); 1 with an empty answer"
    )
    assert read(data, Prompt, limit=1).decision == (
        "1 row of alpaca (rows.jsonl): instruction + input -> user, output -> assistant (kept for graders: id)"
    )


def test_rows_that_a_shape_has_no_use_for_are_counted(rows_file: RowsFile) -> None:
    same, other = "\n\nHuman: hi\n\nAssistant: hello", "\n\nHuman: ho\n\nAssistant: go away"
    data = rows_file(
        {"chosen": same, "rejected": other}, {"chosen": same, "rejected": same.replace("hello", "go away")}
    )
    reading = read(data, Pair)
    assert reading.rows == [PAIR]
    assert "1 left out as the dialogues differ before the last answer" in reading.decision


def test_the_smaller_of_take_and_limit_holds(rows_file: RowsFile) -> None:
    rows = [{"text": str(n)} for n in range(9)]
    assert [row.text for row in read(rows_file(*rows, take=3), Text, limit=5).rows] == ["0", "1", "2"]
    assert len(read(rows_file(*rows, take=3), Text, limit=2).rows) == 2
    assert len(read(rows_file(*rows), Text).rows) == 9


def test_what_comes_after_the_last_row_asked_for_is_not_looked_at(rows_file: RowsFile) -> None:
    assert len(read(rows_file({"text": "a"}, {"text": ["bad"]}, take=1), Text).rows) == 1


def test_files_of_several_layouts_are_read_in_order(tmp_path: Path, dataset: Callable[..., Dataset]) -> None:
    (tmp_path / "b.jsonl").write_text('{"prompt": "hi", "completion": "hello"}\n')
    (tmp_path / "a.json").write_text('[{"instruction": "hi", "output": "hello"}]')
    (tmp_path / "posttrain.json").write_text("{}")
    (tmp_path / "README.md").write_text("# rows")
    reading = read(dataset(tmp_path), Conversation)
    assert reading.rows == [CHAT, CHAT]
    assert "alpaca (a.json)" in reading.decision
    assert "prompt-completion (b.jsonl)" in reading.decision
    listed = Dataset(tmp_path, "0", files={"b.jsonl": FileEntry(1, "0")})
    assert "alpaca" not in read(listed, Conversation).decision


def test_a_glob_names_some_files(tmp_path: Path, dataset: Callable[..., Dataset]) -> None:
    for split, n in (("train", 2), ("test", 1)):
        (tmp_path / f"{split}-00000.jsonl").write_text('{"text": "a"}\n' * n)
    assert len(read(dataset(tmp_path / "train-*"), Text).rows) == 2
    with pytest.raises(DataError, match=r"holds several splits: test, train\. Name one of them: '.*#train'\."):
        read(dataset(tmp_path), Text)


def test_bad_rows_stop_the_reading_with_the_first_twenty_named(rows_file: RowsFile) -> None:
    data = rows_file({"prompt": "hi", "completion": "hello"}, *[{"prompt": "hi"}] * 25)
    with pytest.raises(DataError) as caught:
        read(data, Conversation)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"25 rows of {data.path} cannot be read:"
    assert lines[1] == f"{data.path}:2: the column 'completion' is missing or null"
    assert lines[20] == f"{data.path}:21: the column 'completion' is missing or null"
    assert lines[21] == "… and 5 more."
    assert "columns: {role: column}" in lines[22]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": "hello there"}, "'messages' must be a list of messages, this is a string"),
        ({"messages": []}, "the column 'messages' has no messages"),
        ({"messages": ["hi"]}, "'messages'[0] must be an object with a role and content, this is a string"),
        ({"messages": [{"role": "usr", "content": "hi"}]}, "unknown role 'usr'. Did you mean 'user'?"),
        ({"messages": [{"content": "hi"}]}, "the role of 'messages'[0] must be text, this is null"),
        ({"messages": [{"role": "user", "content": None}]}, "the content of 'messages'[0] must be text, this is null"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "a content block that is no text"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "with the name of a tool"),
        (
            {"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]},
            "has `weight: 0.5`, but a turn is learnt",
        ),
        ({"messages": [{"role": "assistant", "content": "a", "train_detail": [{}]}]}, "a mask of characters"),
        (
            {"messages": [{"role": "assistant", "content": "a", "given": "b"}]},
            "does not begin with its `given` words 'b'",
        ),
        ({"prompt": ["hi"], "completion": "a"}, "'prompt'[0] must be an object"),
        ({"prompt": True, "completion": "a"}, "'prompt' must be text, this is true or false"),
        ({"prompt": "hi", "completion": "\ud83d"}, "half a character that is no Unicode, at 1"),
        ({"prompt": "hi", "completion": float("nan")}, "the column 'completion' is missing or null"),
        ({"prompt": "a", "completion": "b", "history": ["hi"]}, "the history must be a list of [question, answer]"),
        ({"prompt": "a", "chosen": "b", "rejected": [{"role": "user", "content": "c"}]}, "must be one message of the"),
        ({"chosen": "b", "rejected": "c"}, "the column 'prompt' is missing or null"),
    ],
)
def test_bad_rows_say_what_is_wrong(row: dict[str, Any], says: str, rows_file: RowsFile, tmp_path: Path) -> None:
    data = rows_file({"text": "x"})
    data.path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        read(data, Pair if "chosen" in row else Conversation)
    assert f"{data.path}:1: " in str(caught.value)
    assert says in str(caught.value)


def test_a_label_that_is_none_is_bad_when_the_user_says_it_is_one(rows_file: RowsFile) -> None:
    row = {"prompt": "hi", "completion": "hello", "label": "greeting"}
    with pytest.raises(DataError, match="the label must be true or false, this is 'greeting'"):
        read(rows_file(row, columns={"label": "label", "prompt": "prompt", "completion": "completion"}), Labelled)


def test_columns_that_do_not_fit_are_named_with_the_nearest_and_the_cure(rows_file: RowsFile) -> None:
    data = rows_file({"promt": "hi", "completio": "hello", "n": 1})
    with pytest.raises(DataError) as caught:
        read(data, Conversation)
    assert str(caught.value) == (
        f"{data.path} cannot be read as Conversation. Columns found: promt, completio, n. "
        "Needed: messages, or prompt and completion. Say which column is which, "
        "for example `columns: {prompt: promt, completion: completio}`, or name other rows."
    )


def test_rows_of_another_kind_are_called_by_their_name(rows_file: RowsFile) -> None:
    with pytest.raises(DataError, match=r"cannot be read as Pair\. .*\(these are prompt and completion\)"):
        read(rows_file({"instruction": "hi", "output": "hello"}), Pair)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"promt": "a"}, "unknown role 'promt'. Did you mean 'prompt'?"),
        ({"prompt": "txt"}, "has no column 'txt'. Did you mean 'text'? Mend `columns: {prompt: …}`."),
    ],
)
def test_a_wrong_map_of_columns_is_explained(columns: dict[str, str], says: str, rows_file: RowsFile) -> None:
    with pytest.raises(DataError) as caught:
        read(rows_file({"text": "a"}, columns=columns), Text)
    assert says in str(caught.value)


@pytest.mark.parametrize("content", ["[]", '{"rows": []}'])
def test_a_file_without_rows(content: str, tmp_path: Path, dataset: Callable[..., Dataset]) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"There are no rows in .* Name a file with rows"):
        read(dataset(path), Text)


def test_only_rows_that_are_left_out(rows_file: RowsFile) -> None:
    data = rows_file({"prompt": "hi", "completion": "go away", "label": False})
    with pytest.raises(DataError, match="1 left out as the answer has a thumb down"):
        read(data, Conversation)


def test_paths_without_rows(tmp_path: Path, dataset: Callable[..., Dataset]) -> None:
    with pytest.raises(DataError, match=r"There is no file .*missing\.jsonl'. Check the path"):
        read(dataset(tmp_path / "missing.jsonl"), Text)
    with pytest.raises(DataError, match=r"has no file of rows\. Name a file, or put one of"):
        read(dataset(tmp_path), Text)
    with pytest.raises(DataError, match=r"No file fits .* Look with `ls"):
        read(dataset(tmp_path / "*.jsonl"), Text)


def test_column_names_cannot_steer_a_terminal(rows_file: RowsFile) -> None:
    data = rows_file({"text": "a", "\x1b[2Jevil": 1})
    assert "\x1b" not in read(data, Text).decision
    with pytest.raises(DataError) as caught:
        read(data, Pair)
    assert "\x1b" not in str(caught.value)
