"""What the tests of reading share: real data sets where they are at hand, and datasets of a few rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.schema.artifacts import Dataset

SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """The path of a real file beside the repository; the test is skipped where it is missing."""

    def at(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{path} is not here")
        return path

    return at


@pytest.fixture
def dataset() -> Callable[..., Dataset]:
    """A dataset at a path."""

    def at(path: Path, columns: dict[str, str] | None = None, take: int | None = None) -> Dataset:
        return Dataset(path, "0123456789abcdef", columns=columns or {}, take=take)

    return at


@pytest.fixture
def rows_file(tmp_path: Path, dataset: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """A dataset of rows that are written to a JSONL file."""

    def write(*rows: Any, columns: dict[str, str] | None = None, take: int | None = None) -> Dataset:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return dataset(path, columns, take)

    return write
