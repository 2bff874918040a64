"""Prompt programs: which examples are shown, how they are written, and that they survive being stored."""

from pathlib import Path

import pytest

from posttrain.data.program import FILE, Example, PromptProgram, question
from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Message, Prompt

RED, DOGS, BLUE = (
    Example("red ->", "rako", "zel"),
    Example("dog ->", "dogs", "plural"),
    Example("blue ->", "timi", "zel"),
)
POOL = (RED, DOGS, BLUE)


def _ask(text: str, task: str = "", plain: str | None = None) -> Prompt:
    return Prompt((Message("user", text),), task=task, plain=plain)


@pytest.mark.parametrize(
    ("by_task", "k", "shown"),
    [(False, 2, (RED, DOGS)), (True, 2, (RED, BLUE)), (True, 1, (RED,)), (True, 9, (RED, BLUE)), (False, 0, ())],
)
def test_the_first_k_that_fit_are_shown(by_task: bool, k: int, shown: tuple[Example, ...]) -> None:
    assert PromptProgram("plain", POOL, k, by_task).picks(_ask("green ->", "zel")) == shown


def test_a_question_is_never_its_own_example() -> None:
    assert PromptProgram("plain", POOL, 2).picks(_ask("Red?", plain="red ->")) == (DOGS, BLUE)


def test_plain_text_is_lines_of_question_and_answer() -> None:
    program = PromptProgram("plain", POOL, 2)
    assert program.text(_ask("Green?", plain="green ->")) == "red -> rako\ndog -> dogs\ngreen ->"
    assert PromptProgram("plain").text(_ask("Green?")) == "Green?"


def test_what_a_row_asks_depends_on_the_layout() -> None:
    row = _ask("Green?", plain="green ->")
    assert (question(row, "chat"), question(row, "plain"), question(_ask("Green?"), "plain")) == (
        "Green?",
        "green ->",
        "Green?",
    )


def test_it_is_stored_beside_the_model(tmp_path: Path) -> None:
    program = PromptProgram("plain", (*POOL, Example("红 ->", "\x1b[2J\n", "zel")), 3, by_task=True)
    assert PromptProgram.load(tmp_path) is None
    program.save(tmp_path)
    assert PromptProgram.load(tmp_path) == program


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "layout": "poem", "examples": []}',
     '{"schema": 1, "layout": "chat", "examples": [{"prompt": "a"}]}', '{"schema": 1, "layout": "chat", "examples": [], "x": 1}'],
)  # fmt: skip
def test_a_damaged_program_is_no_program(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ModelError, match=r"is no prompt program .* Make the model again"):
        PromptProgram.load(tmp_path)
