"""What a killed process leaves half-written is taken up, or taken away, by the next one."""

import os
from pathlib import Path

from posttrain.engine.files import replace_text, sweep
from posttrain.engine.store import Store
from posttrain.pipeline.folder import run_folder, write_plan


def draft(path: Path, age: float = 0.0) -> Path:
    """What `replace_text` leaves when it is killed; `age` in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = path.with_name(f".{path.name}.4711")
    left.write_text("hal")
    os.utime(left, (left.stat().st_atime, left.stat().st_mtime - age))
    return left


def test_drafts_go_and_nothing_else(tmp_path: Path):
    others = [tmp_path / ".lock", tmp_path / ".4711", tmp_path / "report.md.4711", tmp_path / "report.md"]
    for path in others:
        path.write_text("kept")
    draft(tmp_path / "report.md")
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_only_old_drafts_of_a_store_are_nobodys(tmp_path: Path):
    store = Store(tmp_path / "store")
    old = [draft(store.root / "hashes.json", 7200), draft(store.root / "lab" / "1" / "chat" / "train.jsonl", 7200)]
    young = draft(store.root / "lab" / "1" / "chat" / "test.jsonl")
    store.tidy()
    assert [path.exists() for path in (*old, young)] == [False, False, True]


def test_a_run_that_was_killed_before_its_plan_is_gone_on_with(tmp_path: Path):
    with run_folder(tmp_path, "demo", "digest") as folder:
        replace_text(folder / "recipe.yaml", "name: demo")
        left = draft(folder / "plan.json")
    with run_folder(tmp_path, "demo", "digest") as again:
        assert again == folder
        assert not left.exists()
        write_plan(again, "name: demo", {"recipe": "digest"})
    with run_folder(tmp_path, "demo", "another digest") as other:
        assert other != folder


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path):
    (tmp_path / "demo-1").mkdir()
    (tmp_path / "demo-1" / "letter.txt").write_text("mine")
    with run_folder(tmp_path, "demo", "digest") as folder:
        assert folder.name == "demo-2"
