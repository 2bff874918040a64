"""Names in a recipe become models and rows, or one sentence that says what to write instead."""

import json
from pathlib import Path

import pytest

from posttrain.engine.method import Made
from posttrain.engine.store import Store
from posttrain.schema.artifacts import Dataset, Model
from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.settings import Rows


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def model_folder(path: Path, weights: bytes = b"w", **config) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_a_hugging_face_folder_is_a_model(store: Store, tmp_path: Path):
    folder = model_folder(tmp_path / "m")
    (folder / "README.md").write_text("changes nothing")
    model = store.model(str(folder))
    assert (model.path, model.form, model.base) == (folder, "dense", None)
    assert sorted(model.files) == ["config.json", "model.safetensors"]
    (folder / "README.md").write_text("still nothing")
    assert store.model(str(folder)).digest == model.digest
    (folder / "model.safetensors").write_bytes(b"v")
    assert store.model(str(folder)).digest != model.digest


def test_big_files_are_read_once_until_they_change(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = model_folder(tmp_path / "m", weights=bytes(2_000_000))
    first = store.model(str(folder))
    read: list[str] = []
    from posttrain.engine import files

    original = files.entry
    monkeypatch.setattr(files, "entry", lambda path: read.append(path.name) or original(path))
    assert store.model(str(folder)).digest == first.digest
    assert read == ["config.json"]
    (folder / "model.safetensors").write_bytes(bytes(2_000_001))
    assert store.model(str(folder)).digest != first.digest
    assert "model.safetensors" in read


def test_a_broken_hash_cache_is_no_obstacle(store: Store, tmp_path: Path):
    folder = model_folder(tmp_path / "m", weights=bytes(2_000_000))
    first = store.model(str(folder))
    (store.root / "hashes.json").write_text("{torn")
    assert store.model(str(folder)).digest == first.digest


def test_quantised_and_adapter_folders_are_told_apart(store: Store, tmp_path: Path):
    assert store.model(str(model_folder(tmp_path / "q", quantization_config={"quant_method": "gptq"}))).form == "gptq"
    base = model_folder(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../base"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"a")
    first = store.model(str(adapter))
    assert (first.form, first.base) == ("adapter", str(base))
    (base / "model.safetensors").write_bytes(b"other")
    assert store.model(str(adapter)).digest != first.digest, "an adapter on another base is another model"


def test_a_model_of_the_store_is_found_by_folder_and_by_digest(store: Store):
    def work(folder: Path, scratch: Path) -> Made:
        (folder / "model.safetensors").write_bytes(b"w")
        return Made()

    made = store.make("0" * 16, Model(Path(), "", method="sft"), work)
    assert store.model(str(made.path)) == store.model(made.digest[:8]) == made
    (made.path / "model.safetensors").write_bytes(b"v")
    with pytest.raises(ModelError, match=r"damaged.*Make it again"):
        store.model(str(made.path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither config.json nor adapter_config.json.*or `lab`"),
        ({"config.json": "{}"}, "no weights. Put model.safetensors beside it"),
        ({"config.json": "{torn", "model.safetensors": ""}, "cannot be read as JSON"),
        ({"config.json": "[]", "model.safetensors": ""}, "no JSON object"),
        ({"adapter_config.json": "{}"}, "Set base_model_name_or_path"),
    ],
)
def test_a_folder_that_is_no_model_says_what_is_missing(store: Store, tmp_path: Path, files, message):
    (tmp_path / "m").mkdir()
    for name, text in files.items():
        (tmp_path / "m" / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        store.model(str(tmp_path / "m"))


def test_a_missing_folder_names_its_neighbour(store: Store, tmp_path: Path):
    model_folder(tmp_path / "llama")
    with pytest.raises(ModelError, match="Did you mean 'llama'"):
        store.model(str(tmp_path / "lama"))
    with pytest.raises(ModelError, match="is a file"):
        store.model(str(tmp_path / "llama" / "config.json"))


def test_the_hub_without_a_network_is_one_clear_sentence(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"no folder and no artifact.*hf download some/model") as error:
        store.model("some/model")
    assert "\n" not in str(error.value)


def test_rows_come_from_a_file_a_folder_or_a_glob(store: Store, tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", "notes.md"):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text(f'{{"text": "{name}"}}\n')
    one = store.dataset(Rows(path=str(tmp_path / "data" / "a.jsonl")))
    assert (one.path, list(one.files)) == (tmp_path / "data", ["a.jsonl"])
    folder = store.dataset(Rows(path=str(tmp_path / "data")))
    globbed = store.dataset(Rows(path=str(tmp_path / "d*" / "*.jsonl")))
    assert list(folder.files) == list(globbed.files) == ["a.jsonl", "b.jsonl"]
    assert folder.digest == globbed.digest != one.digest


def test_columns_and_take_belong_to_the_digest(store: Store, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    path = str(tmp_path / "a.jsonl")
    whole = store.dataset(Rows(path=path))
    some = store.dataset(Rows(path=path, take=1))
    mapped = store.dataset(Rows(path=path, columns={"prompt": "q"}))
    assert len({whole.digest, some.digest, mapped.digest}) == 3
    assert (some.take, mapped.columns) == (1, {"prompt": "q"})


def test_missing_rows_say_where_to_look(store: Store, tmp_path: Path):
    (tmp_path / "alpaca.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"Did you mean 'alpaca\.json'"):
        store.dataset(Rows(path=str(tmp_path / "alpca.json")))
    with pytest.raises(DataError, match="does not exist either"):
        store.dataset(Rows(path=str(tmp_path / "none" / "a.json")))
    with pytest.raises(DataError, match="No file fits"):
        store.dataset(Rows(path=str(tmp_path / "*.csv")))
    with pytest.raises(DataError, match="no file of rows"):
        store.dataset(Rows(path=str(tmp_path / "empty")))


def test_rows_of_a_stage_are_found_by_digest(store: Store):
    def work(folder: Path, scratch: Path) -> Made:
        (folder / "rows.jsonl").write_text("{}\n")
        return Made()

    made = store.make("0" * 16, Dataset(Path(), "", method="sample"), work)
    assert store.dataset(Rows(path=made.digest)) == store.dataset(Rows(path=str(made.path))) == made


def test_rows_of_the_lab_are_written_once_per_version(store: Store, monkeypatch: pytest.MonkeyPatch):
    from posttrain import lab

    first = store.dataset(Rows(path="lab:word_map/test"))
    (name,) = first.files
    lines = (first.path / name).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == lab.rows("word_map/test")
    with monkeypatch.context() as patched:
        patched.setattr(lab, "rows", lambda name: pytest.fail("was made twice"))
        assert store.dataset(Rows(path="lab:word_map/test")) == first
    monkeypatch.setattr(lab, "VERSION", lab.VERSION + 1)
    assert store.dataset(Rows(path="lab:word_map/test")).path != first.path
    with pytest.raises(DataError, match=r"The lab has no rows 'word_map/tset'. Did you mean 'word_map/test'\?"):
        store.dataset(Rows(path="lab:word_map/tset"))


def test_the_lab_is_a_model(store: Store):
    model = store.model("lab")
    assert (model.form, model.base) == ("dense", None)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(model.files)
    assert store.model(str(model.path)) == model


def test_a_name_that_is_nearly_lab_is_recognised(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="Did you mean 'lab'"):
        store.model("lba")
