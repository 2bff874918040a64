"""Real data sets in their raw files: read without any option, counted row by row."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from posttrain.data.files import is_row_file
from posttrain.data.read import read
from posttrain.engine.store import Store
from posttrain.functional.graders import last_number, number
from posttrain.schema import rows
from posttrain.schema.artifacts import Dataset
from posttrain.schema.rows import Conversation, Labelled, Pair, Prompt, Row, Text
from posttrain.schema.settings import Rows

At = Callable[[str], Path]
OfPath = Callable[..., Dataset]

FILES: list[tuple[str, type[Row], int, str]] = [
    ("alpaca/alpaca_en_demo.json", Conversation, 999, "alpaca (alpaca_en_demo.json): instruction + input -> user"),
    ("alpaca/alpaca_zh_demo.json", Conversation, 1000, "alpaca"),
    ("alpaca/alpaca_data_safety_only.json", Conversation, 1904, "alpaca"),
    ("alpaca/v1_sft_demo.jsonl", Conversation, 500, "messages"),
    ("dolly-sample/dolly_sample.jsonl", Conversation, 387, "instruction + context -> user, response -> assistant"),
    ("gsm8k/train.jsonl", Conversation, 7473, "question-answer"),
    ("gsm8k/test.jsonl", Prompt, 1319, "question -> user, answer -> assistant"),
    ("medicalgpt/medical_sft_1K_format.jsonl", Conversation, 1000, "sharegpt"),
    ("medicalgpt/sharegpt_zh_1K_format.jsonl", Conversation, 498, "2 left out as the last message is not"),
    ("medicalgpt/glaive_toolcall_zh_demo.jsonl", Conversation, 300, "conversations -> messages, tools"),
    ("medicalgpt/medical_corpus.txt", Conversation, 87, "问-答"),
    ("medicalgpt/fever.txt", Text, 1, "text"),
    ("medicalgpt/dpo_zh_500.jsonl", Pair, 500, "conversations -> messages, chosen, rejected"),
    ("hh-rlhf/test.jsonl.gz", Pair, 2307, "5 left out as the dialogues differ before the last answer; 4 with an empty"),
    ("llama-factory-pref/dpo_en_demo.json", Pair, 300, "preferences"),
    ("llama-factory-pref/dpo_zh_demo.json", Conversation, 300, "preferences"),
    ("llama-factory-pref/v1_dpo_demo.jsonl", Pair, 10, "chosen_messages -> chosen"),
    ("llama-factory-pref/kto_en_demo.json", Labelled, 300, "label -> thumb"),
    ("llama-factory-pref/kto_en_demo.json", Conversation, 150, "150 left out as the answer has a thumb down"),
    ("xstest/xstest_v2_completions_gpt4_gpteval.csv", Conversation, 450, "prompt-completion"),
    ("legalbench/complaints.tsv", Text, 1012, "text"),
    ("c4-wiki-demo/c4_demo.jsonl", Text, 300, "text"),
    ("c4-wiki-demo/wiki_demo.txt", Text, 30, "text"),
    ("tinyshakespeare/input.txt", Text, 1, "text"),
    ("bbh/navigate.json", Prompt, 250, "input-target"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape", "n", "says"), FILES, ids=[f"{f[0]}-{f[1].__name__}" for f in FILES])
def test_a_real_file_reads_without_options(
    name: str, shape: type[Row], n: int, says: str, shared: At, dataset: OfPath
) -> None:
    reading = read(dataset(shared(f"data/{name}")), shape)
    assert len(reading.rows) == n
    assert {type(row) for row in reading.rows} == {shape}
    assert says in reading.decision
    assert "\n" not in reading.decision


DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
HEAD = "| file | read as | rows | option | found |"
NO_ROWS = {"LICENSE.txt", "dataset_info.json", "gpt-nano-sort-model.json"}
Line = tuple[str, str, str, str, str]


def lines_of_the_document() -> list[Line]:
    """The table of docs/data.md: (file, shape, rows, option, what is found)."""
    table = DOCUMENT.read_text(encoding="utf-8").split(HEAD)[1].strip().splitlines()[1:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]  # type: ignore[misc]


def rows_of(line: Line, folder: Path) -> Rows:
    option = yaml.safe_load(line[3].strip("`")) if line[3] else {}
    return Rows.model_validate({"path": str(folder / line[0]), **option})


@pytest.mark.slow
@pytest.mark.parametrize("line", lines_of_the_document(), ids=lambda line: f"{line[0]}-{line[1]}")
def test_the_document_says_how_a_data_set_is_read(line: Line, shared: At, tmp_path: Path) -> None:
    data = Store(tmp_path).dataset(rows_of(line, shared("data")))
    reading = read(data, getattr(rows, line[1]))
    assert len(reading.rows) == int(line[2])
    assert reading.decision.startswith(f"{line[2]} row{'s' * (line[2] != '1')} of {line[4]} (")


def test_the_document_has_every_file_of_rows(shared: At) -> None:
    folder = shared("data")
    told = {
        path
        for line in lines_of_the_document()
        for place in folder.glob(line[0])
        for path in (place.rglob("*") if place.is_dir() else [place])
    }
    files = {path for path in folder.rglob("*") if path.is_file() and is_row_file(path) and path.name not in NO_ROWS}
    assert files - told == set()
    assert len(told) > 150


def test_a_column_map_reads_what_has_no_usual_name(shared: At, dataset: OfPath) -> None:
    path = shared("data/advbench/harmful_behaviors.csv")
    reading = read(dataset(path, {"prompt": "goal", "completion": "target"}), Prompt)
    assert len(reading.rows) == 520
    assert "goal -> user, target -> assistant" in reading.decision


def test_cells_of_several_lines_stay_whole(shared: At, dataset: OfPath) -> None:
    found = read(dataset(shared("data/xstest/xstest_v2_completions_llama2orig_gpteval.csv")), Conversation).rows
    assert sum("\n" in row.messages[-1].content for row in found) > 200


def test_every_answer_of_gsm8k_has_its_number(shared: At, dataset: OfPath) -> None:
    found = read(dataset(shared("data/gsm8k/test.jsonl")), Prompt).rows
    assert all(last_number(row.answer or "") is not None for row in found)
    assert all(number(f"So it is {last_number(row.answer or '')}.", {"answer": row.answer}) == 1.0 for row in found)


@pytest.mark.slow
def test_many_turns_of_hh_rlhf_are_split_at_the_last_answer(shared: At, dataset: OfPath) -> None:
    found = read(dataset(shared("data/hh-rlhf/test.jsonl.gz")), Pair).rows
    assert sum(len(row.prompt) > 1 for row in found) > 1600
    assert all(row.prompt[-1].role == "user" and row.chosen != row.rejected for row in found[:200])
    assert not any("\n\nHuman:" in message.content for row in found for message in row.prompt)
