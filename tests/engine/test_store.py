"""The store keeps its promise: an artifact is whole, or absent, or found damaged."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.engine.method import Made
from posttrain.engine.store import Store, load
from posttrain.schema.artifacts import MANIFEST, Dataset, Model
from posttrain.schema.errors import Damaged, PosttrainError, Stopped

KEY = "00112233445566aa"
BLANK = Model(Path(), "", method="sft", settings={"epochs": 2}, inputs={"model": "aa"}, seed=3)


def write(files: dict[str, str], **made):
    """A piece of work that writes these files."""

    def work(folder: Path, scratch: Path) -> Made:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return Made(**made)

    return work


WORK = write({"model.safetensors": "weights", "tokenizer/vocab.json": "{}"}, facts={"loss": 0.5})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_was_made_is_found(store: Store):
    made = store.make(KEY, BLANK, WORK)
    found = Store(store.root).find(KEY)
    assert found == made
    assert isinstance(found, Model)
    assert (found.key, found.seed, found.facts, found.settings) == (KEY, 3, {"loss": 0.5}, {"epochs": 2})
    assert sorted(found.files) == ["model.safetensors", "tokenizer/vocab.json"]
    assert found.bytes == len("weights{}")
    assert "torch" in found.environment
    assert made.path.name == f"sft-{KEY}"
    assert not (store.root / "work" / KEY).exists()


def test_nothing_is_found_before_it_is_made(store: Store):
    assert store.find(KEY) is None


def test_kept_work_is_not_done_again(store: Store):
    store.make(KEY, BLANK, WORK)

    def refuse(folder: Path, scratch: Path) -> Made:
        raise AssertionError("was made twice")

    assert store.make(KEY, BLANK, refuse).key == KEY


def test_the_digest_is_of_names_and_bytes_alone(tmp_path: Path):
    files = {"a.txt": "one", "b.txt": "two"}
    first = Store(tmp_path / "1").make(KEY, BLANK, write(files))
    other_order = dict(reversed(files.items()))
    second = Store(tmp_path / "2").make("ff" * 8, replace(BLANK, seed=9), write(other_order, facts={"x": 1}))
    assert first.digest == second.digest
    third = Store(tmp_path / "3").make(KEY, BLANK, write({"a.txt": "two", "b.txt": "one"}))
    assert third.digest != first.digest


def test_an_adapter_finds_its_base_after_the_store_moved(store: Store, tmp_path: Path):
    base = store.make("b" * 16, BLANK, WORK)
    store.make(KEY, BLANK, write({"adapter.safetensors": "a"}, form="adapter", base=str(base.path)))
    shutil.move(store.root, tmp_path / "moved")
    found = Store(tmp_path / "moved").find(KEY)
    assert isinstance(found, Model)
    assert found.form == "adapter"
    assert found.base == str(tmp_path / "moved" / f"sft-{'b' * 16}")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("name", "hurt", "why"),
    [
        ("model.safetensors", cut, "has 6 bytes instead of 7"),
        ("model.safetensors", flip, "the bytes of model.safetensors"),
        ("model.safetensors", Path.unlink, "model.safetensors is missing"),
        (MANIFEST, lambda path: path.write_bytes(path.read_bytes()[:99]), "no readable"),
        (MANIFEST, lambda path: path.write_text("[]"), "no readable"),
    ],
)
def test_damage_is_moved_aside_told_and_made_again(tmp_path: Path, name, hurt, why):
    told: list[str] = []
    store = Store(tmp_path / "store", on_damage=told.append)
    made = store.make(KEY, BLANK, WORK)
    hurt(made.path / name)
    assert store.find(KEY) is None
    assert why in told[0]
    assert str(store.root / "damaged") in told[0]
    assert store.make(KEY, BLANK, WORK) == made
    assert store.find(KEY) == made


def test_a_folder_without_manifest_is_moved_aside(store: Store):
    made = store.make(KEY, BLANK, WORK)
    (made.path / MANIFEST).unlink()
    assert store.find(KEY) is None
    assert list((store.root / "damaged").iterdir())


def test_big_files_are_hashed_only_to_verify(store: Store, monkeypatch: pytest.MonkeyPatch):
    made = store.make(KEY, BLANK, WORK)
    flip(made.path / "model.safetensors")
    monkeypatch.setattr("posttrain.engine.store.SMALL", 3)
    assert load(made.path) == made
    with pytest.raises(Damaged, match=r"the bytes of model\.safetensors"):
        load(made.path, verify=True)
    assert store.find(KEY, verify=True) is None


def test_failed_work_leaves_its_checkpoints_and_nothing_else(store: Store):
    def fail(folder: Path, scratch: Path) -> Made:
        (folder / "half.safetensors").write_text("half")
        (scratch / "step-7").write_text("state")
        raise Stopped("asked to")

    with pytest.raises(Stopped):
        store.make(KEY, BLANK, fail)
    assert store.find(KEY) is None
    assert not list(store.root.rglob("half.safetensors"))

    def resume(folder: Path, scratch: Path) -> Made:
        assert (scratch / "step-7").read_text() == "state"
        return WORK(folder, scratch)

    store.make(KEY, BLANK, resume)
    assert not (store.root / "work" / KEY).exists()


def test_a_method_that_writes_nothing_is_refused(store: Store):
    with pytest.raises(PosttrainError, match=r"wrote no file.*job\.folder"):
        store.make(KEY, BLANK, write({}))


def test_tidy_keeps_checkpoints_of_unfinished_work_only(store: Store):
    store.make(KEY, BLANK, WORK)
    for key in (KEY, "c" * 16):
        for name in ("made", "scratch"):
            (store.root / "work" / key / name).mkdir(parents=True)
            (store.root / "work" / key / name / "file").write_text("x")
    store.tidy()
    left = sorted(path.relative_to(store.root / "work").as_posix() for path in (store.root / "work").rglob("file"))
    assert left == [f"{'c' * 16}/scratch/file"]


def test_artifacts_are_looked_up_by_digest_or_key(store: Store):
    made = store.make(KEY, BLANK, WORK)
    rows = store.make("d" * 16, Dataset(Path(), "", method="sample"), write({"rows.jsonl": "{}\n"}))
    assert list(store.artifacts()) == [made, rows]
    assert store.lookup(made.digest[:6]) == store.lookup(KEY[:8]) == [made]
    assert store.lookup(made.digest[:5]) == [], "too few digits to mean one artifact"
    assert store.lookup("../sft") == []


def test_a_method_outside_the_package_has_a_tame_folder_name(store: Store):
    made = store.make(KEY, replace(BLANK, method="../my_losses.file:Mine"), WORK)
    assert made.path == store.root / f"mine-{KEY}"


def test_the_manifest_is_plain_json_without_the_place(store: Store):
    made = store.make(KEY, BLANK, WORK)
    manifest = json.loads((made.path / MANIFEST).read_text())
    assert manifest["kind"] == "model"
    assert manifest["files"]["model.safetensors"]["bytes"] == 7
    assert str(store.root) not in json.dumps(manifest)
