"""The ways in which the field writes rows: tools and blocks, masks of turns, judged answers, token ids."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from posttrain.data.read import read
from posttrain.schema.artifacts import Dataset
from posttrain.schema.errors import DataError
from posttrain.schema.rows import (
    Conversation,
    Labelled,
    Message,
    Pair,
    Prompt,
    Row,
    Text,
    Tokenised,
    TokenisedPair,
    ToolCall,
    fingerprint,
)

RowsFile = Callable[..., Dataset]

HI, HELLO, BYE = Message("user", "hi"), Message("assistant", "hello"), Message("assistant", "go away")
ASK = Message("user", "Is it warm in Rome?")
CALL = ToolCall("weather", '{"city": "Rome"}', "c1")
CALLED = Message("assistant", "", tool_calls=(CALL,))
WARM = Message("assistant", "Yes.")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


def result(text: str = "31") -> Message:
    return Message("tool", text, tool_call_id="c1")


OPENAI = [
    {"role": "user", "content": "Is it warm in Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "31"},
    {"role": "assistant", "content": "Yes."},
]
ANTHROPIC = [
    {"role": "user", "content": "Is it warm in Rome?"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "I must look."},
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "31"}]},
            {"type": "text", "text": "Well?"},
        ],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
]
SHAREGPT = [
    {"from": "human", "value": "Is it warm in Rome?"},
    {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
    {"from": "observation", "value": "31"},
    {"from": "gpt", "value": "Yes."},
]
CHAT = Conversation((HI, HELLO))
PAIR = Pair((HI,), (HELLO,), (BYE,))
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]

SHAPES: dict[str, tuple[dict[str, Any], Row]] = {
    "OpenAI tools": (
        {"messages": OPENAI, "tools": [TOOL]},
        Conversation((ASK, CALLED, result(), WARM), tools=(TOOL,)),
    ),
    "OpenAI tools, all as JSON text": (
        {"messages": json.dumps(OPENAI), "tools": json.dumps([TOOL])},
        Conversation((ASK, CALLED, result(), WARM), tools=(TOOL,)),
    ),
    "a function call of 2023": (
        {
            "messages": [
                OPENAI[0],
                {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
                {"role": "function", "name": "weather", "content": {"celsius": 31}},
                OPENAI[3],
            ],
            "functions": [{"name": "weather", "parameters": SCHEMA}],
        },
        Conversation(
            (
                ASK,
                Message("assistant", "", tool_calls=(ToolCall("weather"),)),
                Message("tool", '{"celsius": 31}', name="weather"),
                WARM,
            ),
            tools=(TOOL,),
        ),
    ),
    "Anthropic blocks": (
        {"messages": ANTHROPIC, "tools": [{"name": "weather", "input_schema": SCHEMA}]},
        Conversation(
            (
                ASK,
                Message("assistant", "Let me see.", "I must look.", (CALL,)),
                result(),
                Message("user", "Well?"),
                WARM,
            ),
            tools=(TOOL,),
        ),
    ),
    "sharegpt with calls": (
        {"conversations": SHAREGPT, "tools": json.dumps([TOOL["function"]])},
        Conversation(
            (
                ASK,
                Message("assistant", "", tool_calls=(ToolCall("weather", '{"city": "Rome"}'),)),
                Message("tool", "31"),
                WARM,
            ),
            tools=(TOOL,),
        ),
    ),
    "no tools at all": ({"messages": TURNS, "tools": ""}, CHAT),
    "reasoning in a field": (
        {"messages": [TURNS[0], {**TURNS[1], "reasoning_content": "be nice"}]},
        Conversation((HI, Message("assistant", "hello", "be nice"))),
    ),
    "options of the template": (
        {"messages": TURNS, "chat_template_kwargs": {"enable_thinking": False}},
        Conversation((HI, HELLO), template_options={"enable_thinking": False}),
    ),
    "a key for each role": ({"conversations": [{"human": "hi", "assistant": "hello"}]}, CHAT),
    "history of messages": (
        {"query": "hi", "response": "hello", "history": [{"role": "user", "content": "hi"}, {"bot": "hello"}]},
        Conversation((HI, HELLO, HI, HELLO)),
    ),
    "turns that are not learnt": (
        {"messages": [*TURNS, {**TURNS[0], "train": True}, {**TURNS[1], "train": False}, *TURNS]},
        Conversation(
            (
                HI,
                HELLO,
                Message("user", "hi", trained=True),
                Message("assistant", "hello", trained=False),
                HI,
                HELLO,
            )
        ),
    ),
    "masked turns": (
        {"messages": [{**TURNS[0], "masked": True}, {**TURNS[1], "masked": True}, *TURNS]},
        Conversation((HI, Message("assistant", "hello", trained=False), HI, HELLO)),
    ),
    "weights of turns": (
        {"messages": [{**TURNS[0], "weight": 0}, {**TURNS[1], "weight": 0}, TURNS[0], {**TURNS[1], "weight": 1}]},
        Conversation((HI, Message("assistant", "hello", trained=False), HI, HELLO)),
    ),
    "words that are given": (
        {"messages": [TURNS[0], {**TURNS[1], "given": "hel"}]},
        Conversation((HI, Message("assistant", "hello", given="hel"))),
    ),
    "a chosen dialogue and a rejected answer": ({"messages": TURNS, "rejected_response": "go away"}, PAIR),
    "a chosen and a rejected dialogue": (
        {"messages": TURNS, "rejected_messages": [TURNS[0], {"role": "assistant", "content": "go away"}]},
        PAIR,
    ),
    "a margin": (
        {"prompt": "hi", "chosen": "hello", "rejected": "go away", "margin": "1.5"},
        Pair((HI,), (HELLO,), (BYE,), 1.5),
    ),
    "a probability": (
        {"prompt": "hi", "chosen": "hello", "rejected": "go away", "probability": 0.7},
        Pair((HI,), (HELLO,), (BYE,), probability=0.7),
    ),
    "answers of a ranking file": ({"instruction": "hi", "input": "", "output": ["hello", "go away"]}, PAIR),
    "pre-tokenised, with labels": (
        {"input_ids": [5, 6, 7], "labels": [-100, -100, 7], "attention_mask": [1, 1, 1]},
        Tokenised((5, 6, 7), (False, False, True)),
    ),
    "pre-tokenised, with masks": (
        {"input_ids": [5, 6, 7, 8], "completion_mask": [0, 1, 1, 1], "assistant_masks": [0, 1, 0, 1]},
        Tokenised((5, 6, 7, 8), (False, True, False, True)),
    ),
    "pre-tokenised and padded": (
        {"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0]},
        Tokenised((5, 6), (False, True)),
    ),
    "pre-tokenised pairs": (
        {"prompt_ids": [5, 6], "chosen_ids": [7], "rejected_ids": [8, 9]},
        TokenisedPair((5, 6), (7,), (8, 9)),
    ),
}
READ_AS: dict[type[Row], type[Row]] = {Tokenised: Conversation, TokenisedPair: Pair}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_recognised(name: str, rows_file: RowsFile) -> None:
    columns, row = SHAPES[name]
    assert read(rows_file(columns), READ_AS.get(type(row), type(row))).rows == [row]  # type: ignore[type-var]


def test_templates_get_arguments_as_objects_and_no_empty_keys() -> None:
    assert CALLED.as_dict()["tool_calls"] == [
        {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    ]
    assert HI.as_dict() == {"role": "user", "content": "hi"}
    assert result().as_dict() == {"role": "tool", "content": "31", "tool_call_id": "c1"}
    assert Message("assistant", "", tool_calls=(ToolCall("f", "not JSON"),)).as_dict()["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": "not JSON"}}
    ]


def test_only_the_assistants_turns_are_learnt_unless_a_row_says_otherwise() -> None:
    assert [m.is_trained for m in (HI, HELLO, result())] == [False, True, False]
    assert Message("user", "hi", trained=True).is_trained
    assert not Message("assistant", "hi", trained=False).is_trained


def test_another_call_before_the_answer_is_another_question() -> None:
    other = Message("assistant", "", tool_calls=(ToolCall("clock", "{}"),))
    assert fingerprint(Conversation((ASK, CALLED, result(), WARM))) != fingerprint(
        Conversation((ASK, other, result(), WARM))
    )


def test_a_ranking_is_all_its_pairs_and_the_best_is_learnt(rows_file: RowsFile) -> None:
    data = rows_file({"prompt": "hi", "responses": ["a", "b", "c"], "scores": [0.5, 2, 0.5]})
    a, b, c = ((Message("assistant", said),) for said in "abc")
    assert read(data, Pair).rows == [Pair((HI,), b, a), Pair((HI,), b, c)], "a and c are equally good"
    assert read(data, Conversation).rows == [Conversation((HI, *b))]
    assert read(data, Prompt).rows[0].answer == "b"
    unscored = rows_file({"prompt": "hi", "responses": ["a", "b", "c"]})
    assert read(unscored, Pair).rows == [Pair((HI,), a, b), Pair((HI,), a, c), Pair((HI,), b, c)]
    assert "answers, best first" in read(unscored, Pair).decision
    with pytest.raises(DataError, match="1 left out as all answers are equally good"):
        read(rows_file({"prompt": "hi", "responses": ["a", "b"], "scores": [1, 1]}), Pair)


def test_steps_are_thumbs_on_solutions_up_to_them(rows_file: RowsFile) -> None:
    data = rows_file(
        {"prompt": "hi", "completions": ["one", "two", "three"], "labels": [True, False, True]},
        {"prompt": "hi", "completions": ["one", "two"], "labels": [1, 1]},
    )
    one, two = (Message("assistant", "one"),), (Message("assistant", "one\ntwo"),)
    right = [Labelled((HI,), one, True), Labelled((HI,), two, True)]
    assert read(data, Labelled).rows == [Labelled((HI,), one, True), Labelled((HI,), two, False), *right]
    reading = read(data, Conversation)
    assert reading.rows == [Conversation((HI, *two))]
    assert "1 left out as a step is wrong" in reading.decision


@pytest.mark.parametrize(
    ("label", "good"),
    [
        *[(up, True) for up in (True, 1, 1.0, "1", "True", "yes", "👍", "thumbs_up", "Good", "+1", "desirable")],
        *[(down, False) for down in (False, 0, -1, "0", "false", "No", "👎", "thumbs down", "bad", "undesirable")],
    ],
)
def test_thumbs_are_spelt_in_many_ways(label: Any, good: bool, rows_file: RowsFile) -> None:
    data = rows_file({"prompt": "hi", "completion": "hello", "kto_tag": label})
    assert read(data, Labelled).rows == [Labelled((HI,), (HELLO,), good)]


def test_equal_answers_are_no_preference(rows_file: RowsFile) -> None:
    same = {"prompt": "hi", "chosen": "hello", "rejected": "hello"}
    reading = read(rows_file(same, {**same, "rejected": "go away"}), Pair)
    assert reading.rows == [PAIR]
    assert "1 left out as both answers are the same" in reading.decision


def test_tools_that_are_none_are_a_column_like_others(rows_file: RowsFile) -> None:
    reading = read(rows_file({"messages": TURNS, "tools": ["calculator"]}), Conversation)
    assert reading.rows == [CHAT]
    assert "not used: tools" in reading.decision


def test_readable_text_goes_before_token_ids(rows_file: RowsFile) -> None:
    row = {"text": "hi", "input_ids": [5, 6]}
    assert read(rows_file(row), Text).rows == [Text("hi")]
    with pytest.raises(DataError, match="cannot be read as Prompt"):
        read(rows_file({"input_ids": [5, 6]}), Prompt)


@pytest.mark.parametrize(
    ("row", "shape", "says"),
    [
        (
            {"input_ids": [5, 6, 7], "labels": [6, 7, -100]},
            Conversation,
            "labels[0] is 6, but must be input_ids[0], which is 5, or -100: labels are not shifted",
        ),
        ({"input_ids": [5, 6], "labels": [-100]}, Text, "there are 2 tokens, but 1 in the column 'labels'"),
        ({"input_ids": [5, -3]}, Text, "input_ids[1] must be a token's number, this is -3"),
        ({"input_ids": []}, Text, "the column 'input_ids' has no tokens"),
        ({"input_ids": [5], "attention_mask": [0]}, Text, "all tokens are padding"),
        ({"prompt_ids": [1], "chosen_ids": [], "rejected_ids": [2]}, Pair, "both answers must have tokens"),
        ({"prompt": "a", "responses": ["b", "c"], "scores": [1]}, Pair, "there are 2 answers, but 1 in the column"),
        ({"prompt": "a", "responses": ["b", "c"], "scores": [1, "x"]}, Pair, "a score must be a number, this is 'x'"),
        ({"prompt": "a", "completions": ["b"], "labels": ["x"]}, Labelled, "`labels` must say true or false of each"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "much"}, Pair, "'margin' must be a number"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "probability": 1.2}, Pair, "must be from 0 to 1, this is 1.2"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c", "probability": "NaN"},
            Pair,
            "must be from 0 to 1, this is nan",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "c1"}]}]}, Prompt, "the tool calls of"),
        ({"messages": [{"role": "tool", "content": {"a": "\ud83d"}}, *TURNS]}, Conversation, "half a character"),
    ],
)
def test_bad_rows_say_what_is_wrong(row: dict[str, Any], shape: type[Any], says: str, rows_file: RowsFile) -> None:
    data = rows_file({"text": "x"})
    data.path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        read(data, shape)
    assert f"{data.path}:1: " in str(caught.value)
    assert says in str(caught.value)


def test_a_pattern_joins_columns(rows_file: RowsFile) -> None:
    row = {"Body": "Ann has 3.", "Question": "How many?", "Answer": 3.0, "more": [{"n": {"deep": "x"}}]}
    reading = read(rows_file(row, columns={"prompt": "{Body} {Question}", "answer": "Answer"}), Conversation)
    assert [m.content for m in reading.rows[0].messages] == ["Ann has 3. How many?", "3.0"]
    assert reading.decision.endswith("{Body} {Question} -> user, Answer -> assistant (not used: more)")
    data = rows_file(row, columns={"text": "{more.0.n.deep}: {Body} {more.7.n}"})
    assert read(data, Text).rows == [Text("x: Ann has 3. ")]
    with pytest.raises(DataError, match=r"has no column 'Bdy'. Did you mean 'Body'\? Mend `columns: \{text: …\}`"):
        read(rows_file(row, columns={"text": "{Bdy}"}), Text)
    with pytest.raises(DataError, match=r"rows.jsonl:2: the column '\{Body\}' is missing or null"):
        read(rows_file(row, {"Question": "?"}, columns={"text": "{Body}"}), Text)


def test_columns_without_names_are_said_to_be_so(tmp_path: Any) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Which is even?,1,2,B\nWhich is odd?,3,4,A\n")
    reading = read(Dataset(path, "0", columns={"prompt": "{1}\nA: {2}\nB: {3}", "answer": "4"}), Prompt)
    assert reading.rows[0].messages == (Message("user", "Which is even?\nA: 1\nB: 2"),)
    assert reading.rows[0].answer == "B"
    assert "in columns without names (a.csv)" in reading.decision
