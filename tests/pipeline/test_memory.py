"""The memory part of `posttrain plan`: a line a stage, a warning that names what fits, and nothing invented."""

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.pipeline import memory
from posttrain.pipeline.memory import Forecast, forecasts
from posttrain.pipeline.run import preview
from tests import tiny

RECIPE = """\
name: two
model: ./base
measure: [size]
stages:
  - sft: {data: chat.jsonl, batch_size: 8, max_length: 64}
  - dpo: {data: pairs.jsonl, adapter: lora}
  - merge
  - sample: {data: chat.jsonl, sampling: {max_new_tokens: 4}}
  - sft: {name: again, from: merge, data: sample, batch_size: 4, max_length: 50, micro_tokens: 120}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.model().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    for name, row in {
        "chat": {"prompt": "1234567", "completion": "abcde"},
        "pairs": {"prompt": "12", "chosen": "abcd", "rejected": "efghijkl"},
    }.items():
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 20, encoding="utf-8")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path


def told(*overrides: str) -> dict[str, Forecast]:
    found = preview("r.yaml", overrides)
    return forecasts(found.plan, found.outside, found.states)


def test_tokens_at_once_are_those_of_the_rows(place: Path):
    """A row of chat: a user's turn of 7 letters and an answer of 5, each with two marks, of which the last is the end."""
    found = told()
    assert list(found) == ["sft", "dpo", "again"]
    row = (1 + 7 + 1) + 1 + (5 + 1)
    assert found["sft"].tokens == 8 * row
    assert found["sft"].known
    assert told("sft.micro_tokens=40")["sft"].tokens == 2 * row
    assert told("sft.batch_size=64")["sft"].tokens == 20 * row, "there are no more rows than 20"
    assert told("sft.keep={replay: {data: chat.jsonl, share: 0.5}}")["sft"].tokens == 16 * row


def test_a_teacher_is_held_beside(place: Path):
    """A deeper one from outside, whose weights are its own; one that a step makes is taken to be as large as the model."""
    deep = tiny.model(num_hidden_layers=5)
    deep.save_pretrained(place / "deep")
    tiny.tokenizer().save_pretrained(place / "deep")
    n = [sum(p.numel() for p in model.parameters()) for model in (tiny.model(), deep)]
    recipe = """\
name: three
model: ./base
stages:
  - sft: {data: chat.jsonl, batch_size: 8, max_length: 64}
  - distill: {name: outer, from: base, data: chat.jsonl, batch_size: 8, max_length: 64, teacher: ./deep}
  - distill: {name: inner, from: base, data: chat.jsonl, batch_size: 8, max_length: 64, teacher: sft}
  - distill: {name: own, from: base, data: chat.jsonl, batch_size: 8, max_length: 64, teacher: sft, on_policy: 0.5}
  - distill: {name: noted, from: base, data: chat.jsonl, batch_size: 8, max_length: 64, teacher: sft, cache: {}}
"""
    (place / "r.yaml").write_text(recipe, encoding="utf-8")
    found = told()
    assert found["sft"].memory.copies == 0
    assert found["outer"].memory.copies == 4 * n[1]
    assert found["inner"].memory.copies == 4 * n[0]
    assert found["noted"].memory.copies == 0, "gone before gradients and moments come, which take more"
    assert found["outer"].memory.logits > found["sft"].memory.logits
    assert found["inner"].known and not found["own"].known


def test_where_rows_are_yet_to_be_made_the_most_is_told(place: Path):
    again = told()["again"]
    assert not again.known
    assert again.tokens == 120
    assert told("again.micro_tokens=4096")["again"].tokens == 4 * 50


def test_a_line_a_stage_in_columns(place: Path, capsys):
    assert main(["plan", "r.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith("memory ")]
    header, sft, dpo, again = lines[start : start + 4]
    assert header.split() == "memory parameters optimizer gradients activations logits total".split()
    assert [line.split()[0] for line in (sft, dpo, again)] == ["sft", "dpo", "again"]
    end = header.index("total") + len("total")
    assert all(line[end - 1] == "B" and line[end : end + 2] == "  " for line in (sft, dpo, again)), (
        "columns are aligned"
    )
    assert sft.endswith("128 tokens at once")
    assert again.endswith("at most 120 tokens at once")


def test_the_same_in_json(place: Path, capsys):
    assert main(["plan", "r.yaml", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["memory"]
    parts = ("parameters", "copies", "optimizer", "gradients", "activations", "logits")
    assert answer["sft"]["total"] == sum(answer["sft"][part] for part in parts)
    assert answer["dpo"]["optimizer"] < answer["sft"]["optimizer"]
    assert answer["dpo"]["copies"] == 0, "the base is the reference"
    assert answer["again"]["rows_known"] is False
    assert answer["sft"]["machine"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("micro_tokens", "share", "cure"),
    [
        (4096, 0.5, "Set `micro_tokens: 512`."),
        (512, 0.7, "Set `gradient_checkpointing: true`."),
        (4096, 1e-3, "Take a smaller model"),
    ],
)
def test_too_much_is_warned_of_with_what_fits(
    micro_tokens: int, share: float, cure: str, place: Path, monkeypatch, capsys
):
    (place / "chat.jsonl").write_text((place / "chat.jsonl").read_text(encoding="utf-8") * 40, encoding="utf-8")
    settings = ["sft.batch_size=4000", f"sft.micro_tokens={micro_tokens}"]
    words, total = ["plan", "r.yaml", *settings], told(*settings)["sft"].memory.total
    monkeypatch.setattr(memory, "_room", lambda: (True, int(total * share)))
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "warning  sft:" in said
    assert "are needed, and this machine has" in said
    assert cure in said.split("warning  sft:")[1].splitlines()[0]
    assert main([*words, "--json"]) == 0
    assert cure in json.loads(capsys.readouterr().out)["memory"]["sft"]["warning"]


@pytest.mark.slow
def test_the_cure_fits(place: Path, monkeypatch):
    (place / "chat.jsonl").write_text((place / "chat.jsonl").read_text(encoding="utf-8") * 40, encoding="utf-8")
    total = told("sft.batch_size=4000")["sft"].memory.total
    monkeypatch.setattr(memory, "_room", lambda: (True, total // 2))
    warned = told("sft.batch_size=4000")["sft"]
    assert warned.too_large
    named = [part.strip("`").replace(": ", "=") for part in warned.warning.split("`")[1::2]]
    assert not told("sft.batch_size=4000", *(f"sft.{setting}" for setting in named))["sft"].too_large


def test_what_cannot_be_told_says_why(place: Path, capsys):
    (place / "base" / "model.safetensors").rename(place / "base" / "pytorch_model.bin")
    assert main(["plan", "r.yaml"]) == 0
    out = capsys.readouterr().out
    assert "memory of sft:" in out
    assert "has no safetensors files" in out
    assert "tokens at once" not in out


def test_a_kept_stage_takes_no_memory(place: Path, capsys):
    words = ["r.yaml", "sft.steps=1", "sft.batch_size=2"]
    assert main(["run", *words, "--until", "sft"]) == 0
    capsys.readouterr()
    assert list(_memory(words, capsys)) == ["dpo", "again"]


def _memory(words: list[str], capsys: Any) -> dict[str, Any]:
    assert main(["plan", *words, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out)["memory"])
