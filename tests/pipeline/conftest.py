"""Makes the stand-in methods importable by the names that recipes use, `pipeline_fakes:Tune`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import pipeline_fakes as fakes


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    fakes.RAN.clear()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder that passes for a model: the stand-in methods only hash it."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights of the base")
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Six questions with answers."""
    return write_rows(tmp_path / "rows.jsonl", range(6))


@pytest.fixture
def other_rows(tmp_path: Path) -> Path:
    """Three other questions."""
    return write_rows(tmp_path / "test.jsonl", range(10, 13))


def write_rows(path: Path, numbers: range) -> Path:
    path.write_text("".join(f'{{"prompt": "What is {n}+{n}?", "answer": "{2 * n}"}}\n' for n in numbers))
    return path


@pytest.fixture
def text(base: Path, rows: Path, other_rows: Path) -> str:
    """A recipe with every kind of method."""
    return f"""
name: demo
model: {base}
measure:
  - pipeline_fakes:Score: {{name: chat, data: {other_rows}}}
  - pipeline_fakes:Weigh
stages:
  - pipeline_fakes:Tune: {{data: {rows}}}
  - pipeline_fakes:Write: {{data: {rows}}}
  - pipeline_fakes:Tune: {{name: second, data: write, strength: 0.2}}
  - pipeline_fakes:Compress: {{from: tune}}
"""
